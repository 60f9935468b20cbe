// OpenMM calls `registerKernelFactories` when it loads this library as a plugin. UipForce has no kernels; it
// registers its serialisation, whose classes differ between versions of OpenMM without an error of the linker.
#include <openmm/OpenMMException.h>
#include <openmm/Platform.h>

#include <string>

#include "export.h"
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

extern "C" UIP_EXPORT void registerPlatforms() {}

extern "C" UIP_EXPORT void registerKernelFactories() {
  static bool registered = false;
  if (registered) return;
  uip::openmm::check_version(OpenMM::Platform::getOpenMMVersion());
  // static: OpenMM's registry exists until the process ends
  static const uip::openmm::UipForceProxy proxy;
  OpenMM::SerializationProxy::registerProxy(typeid(uip::openmm::UipForce), &proxy);
  registered = true;
}
