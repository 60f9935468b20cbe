#include "uip_force.h"

#include <openmm/OpenMMException.h>

#include <set>

#include "schema.h"
#include "uip_force_impl.h"

namespace uip::openmm {
namespace {

using OpenMM::OpenMMException;

constexpr double largest_skin = 10.0;  // nm; with more, every pair of atoms is a candidate

std::string symbol(int atomic_number) {
  try {
    return element_symbol(atomic_number);
  } catch (const std::exception &) {
    return "Z = " + std::to_string(atomic_number);
  }
}

std::string known_elements(const Metadata &metadata) {
  std::string text;
  for (const auto number : metadata.elements) text += (text.empty() ? "" : " ") + symbol(static_cast<int>(number));
  return text;
}

void check_elements(const Metadata &metadata, const std::vector<int> &atomic_numbers) {
  const std::set<int64_t> known(metadata.elements.begin(), metadata.elements.end());
  for (size_t atom = 0; atom < atomic_numbers.size(); ++atom) {
    if (known.count(atomic_numbers[atom]) > 0) continue;
    throw OpenMMException("atom " + std::to_string(atom) + " is " + symbol(atomic_numbers[atom]) + ", but '" +
                          metadata.name + "' knows " + known_elements(metadata) + "; use another model");
  }
}

void check_particles(const Settings &settings) {
  const auto &particles = settings.particles;
  if (settings.atomic_numbers.empty()) throw OpenMMException("a UipForce must have at least one atom, got none");
  if (particles.empty()) return;
  if (particles.size() != settings.atomic_numbers.size()) {
    throw OpenMMException("a UipForce needs an atomic number for each of its " + std::to_string(particles.size()) +
                          " particles, got " + std::to_string(settings.atomic_numbers.size()));
  }
  if (std::set<int>(particles.begin(), particles.end()).size() != particles.size()) {
    throw OpenMMException("the particles of a UipForce must differ, but one is named twice; remove the duplicates");
  }
}

void check_charge_and_spin(const Metadata &metadata, int charge, int spin) {
  if (charge < -schema::max_charge || charge > schema::max_charge) {
    throw OpenMMException("`charge` must lie within +-" + std::to_string(schema::max_charge) + " e, got " +
                          std::to_string(charge) + "; it is that of all atoms of the force");
  }
  if (spin < 0 || spin > schema::max_spin) {
    throw OpenMMException("`spin` must be a multiplicity 2S + 1 within 1 .. " + std::to_string(schema::max_spin) +
                          ", or 0 for models of data without spin, got " + std::to_string(spin));
  }
  if (charge != 0 && !has(metadata.inputs, schema::charge)) {
    throw OpenMMException("'" + metadata.name + "' knows no total charge, so `charge` must be 0, got " +
                          std::to_string(charge) + "; leave it out or use another model");
  }
  if (spin != 1 && !has(metadata.inputs, schema::spin)) {
    throw OpenMMException("'" + metadata.name + "' knows no total spin, so `spin` must be 1, got " +
                          std::to_string(spin) + "; leave it out or use another model");
  }
}

UipForceImpl &impl_of(OpenMM::ForceImpl &impl) { return dynamic_cast<UipForceImpl &>(impl); }

}  // namespace

UipForce::UipForce(std::shared_ptr<const ModelFile> model, Settings settings)
    : model_(std::move(model)), settings_(std::move(settings)) {
  check_particles(settings_);
  check_elements(model_->metadata(), settings_.atomic_numbers);
  check_charge_and_spin(model_->metadata(), settings_.charge, settings_.spin);
  if (!(settings_.skin >= 0.0 && settings_.skin <= largest_skin)) {
    throw OpenMMException("`skin` must be 0 .. " + std::to_string(largest_skin) + " nm, got " +
                          std::to_string(settings_.skin));
  }
  setName("UipForce");
}

void UipForce::set_charge_and_spin(int charge, int spin) {
  check_charge_and_spin(model_->metadata(), charge, spin);
  settings_.charge = charge;
  settings_.spin = spin;
}

void UipForce::updateParametersInContext(OpenMM::Context &context) {
  impl_of(getImplInContext(context)).updateParametersInContext(getContextImpl(context));
}

const Results &UipForce::results(OpenMM::Context &context) const {
  return impl_of(getImplInContext(context)).results(getContextImpl(context));
}

const Counters &UipForce::counters(OpenMM::Context &context) const {
  return impl_of(getImplInContext(context)).counters();
}

OpenMM::ForceImpl *UipForce::createImpl() const { return new UipForceImpl(*this); }

}  // namespace uip::openmm
