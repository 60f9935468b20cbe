// OpenMM calls `registerKernelFactories` when it loads this library as a plugin. UipForce brings no kernels; what it
// brings is its serialisation, whose classes have changed between versions of OpenMM without notice to the linker.
#include <openmm/OpenMMException.h>
#include <openmm/Platform.h>

#include <string>

#include "serialization.h"
#include "uip_force.h"

namespace uip::openmm {
namespace {

std::string up_to_minor(const std::string &version) {
  return version.substr(0, version.find('.', version.find('.') + 1));
}

void check_version(const std::string &running) {
  if (up_to_minor(running) == up_to_minor(UIP_OPENMM_VERSION)) return;
  throw OpenMM::OpenMMException("libuipopenmm was built for OpenMM " UIP_OPENMM_VERSION ", but OpenMM " + running +
                                " is running; install openmm " + up_to_minor(UIP_OPENMM_VERSION) +
                                ", or run 'pip install .' of uip again in this environment");
}

}  // namespace
}  // namespace uip::openmm

extern "C" void registerPlatforms() {}

extern "C" void registerKernelFactories() {
  static bool registered = false;
  if (registered) return;
  uip::openmm::check_version(OpenMM::Platform::getOpenMMVersion());
  // lives as long as the process, as OpenMM's registry does
  static const uip::openmm::UipForceProxy proxy;
  OpenMM::SerializationProxy::registerProxy(typeid(uip::openmm::UipForce), &proxy);
  registered = true;
}
