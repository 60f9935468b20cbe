// A UipForce as XML: data alone. The model file is written as base64 with its sha256, or as a path with the sha256;
// both are compared when it is read.
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
