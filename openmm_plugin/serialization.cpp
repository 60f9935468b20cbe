#include "serialization.h"

#include <openmm/OpenMMException.h>
#include <openmm/serialization/SerializationNode.h>

#include "text_codes.h"
#include "uip_force.h"

namespace uip::openmm {
namespace {

using OpenMM::OpenMMException;
using OpenMM::SerializationNode;

constexpr int VERSION = 1;

void write_model(const UipForce &force, SerializationNode &node) {
  const bool by_path = !force.settings().embed;
  node.setStringProperty("sha256", force.model().sha256());
  node.setBoolProperty("embed", !by_path);
  if (by_path) {
    node.setStringProperty("path", force.settings().path);
  } else {
    node.setStringProperty("name", force.model().name());
    node.setStringProperty("content", to_base64(force.model().content()));
  }
}

/// Content in the XML, or a file; without "sha256" (XML written by hand) it is not compared. "trusted", a file of keys,
/// is what uip/openmm/force.py writes for a new force; it is not kept.
std::shared_ptr<const ModelFile> read_model(const SerializationNode &node) {
  const std::string sha256 = node.getStringProperty("sha256", ""), trusted = node.getStringProperty("trusted", "");
  if (!node.hasProperty("content")) return ModelFile::read(node.getStringProperty("path"), sha256, trusted);
  return ModelFile::from_content(node.getStringProperty("name"), from_base64(node.getStringProperty("content")), sha256,
                                 trusted);
}

void write_atoms(const UipForce &force, SerializationNode &node) {
  const Settings &settings = force.settings();
  for (int atom = 0; atom < force.num_atoms(); ++atom) {
    SerializationNode &child = node.createChildNode("Atom");
    child.setIntProperty("z", settings.atomic_numbers[atom]);
    if (!settings.particles.empty()) child.setIntProperty("particle", settings.particles[atom]);
  }
}

void read_atoms(const SerializationNode &node, Settings &settings) {
  for (const SerializationNode &child : node.getChildren()) {
    settings.atomic_numbers.push_back(child.getIntProperty("z"));
    if (child.hasProperty("particle")) settings.particles.push_back(child.getIntProperty("particle"));
  }
}

Settings read_settings(const SerializationNode &node) {
  Settings settings;
  settings.periodic = node.getBoolProperty("periodic");
  settings.charge = node.getIntProperty("charge");
  settings.spin = node.getIntProperty("spin");
  settings.skin = node.getDoubleProperty("skin");
  settings.path = node.getChildNode("Model").getStringProperty("path", "");
  settings.embed = node.getChildNode("Model").getBoolProperty("embed");
  read_atoms(node.getChildNode("Atoms"), settings);
  return settings;
}

UipForce *read_force(const SerializationNode &node) {
  const int version = node.getIntProperty("version");
  if (version != VERSION) {
    throw OpenMMException("it was written with version " + std::to_string(version) +
                          " of its format, this build reads " + std::to_string(VERSION) +
                          "; install the uip that wrote it");
  }
  auto force = std::make_unique<UipForce>(read_model(node.getChildNode("Model")), read_settings(node));
  force->setName(node.getStringProperty("name", force->getName()));
  force->setForceGroup(node.getIntProperty("forceGroup", 0));
  return force.release();
}

}  // namespace

UipForceProxy::UipForceProxy() : SerializationProxy("UipForce") {}

void UipForceProxy::serialize(const void *object, SerializationNode &node) const {
  const UipForce &force = *static_cast<const UipForce *>(static_cast<const OpenMM::Force *>(object));
  const Settings &settings = force.settings();
  node.setIntProperty("version", VERSION);
  node.setStringProperty("name", force.getName());
  node.setIntProperty("forceGroup", force.getForceGroup());
  node.setBoolProperty("periodic", settings.periodic);
  node.setIntProperty("charge", settings.charge);
  node.setIntProperty("spin", settings.spin);
  node.setDoubleProperty("skin", settings.skin);
  write_model(force, node.createChildNode("Model"));
  write_atoms(force, node.createChildNode("Atoms"));
}

void *UipForceProxy::deserialize(const SerializationNode &node) const {
  try {
    // OpenMM casts the address to Force
    return static_cast<OpenMM::Force *>(read_force(node));
  } catch (const std::exception &error) {
    throw OpenMMException(std::string("cannot read a UipForce: ") + error.what());
  }
}

}  // namespace uip::openmm
