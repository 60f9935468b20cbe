// A UipForce as XML. The model file is written as base64 or as a path, with its sha256, which is compared when the XML
// is read. The model file is executable: load only trusted XML.
#pragma once

#include <openmm/serialization/SerializationProxy.h>

namespace uip::openmm {

class UipForceProxy final : public OpenMM::SerializationProxy {
 public:
  UipForceProxy();
  void serialize(const void *object, OpenMM::SerializationNode &node) const override;
  void *deserialize(const OpenMM::SerializationNode &node) const override;
};

}  // namespace uip::openmm
