// Plain C for uip/openmm/plugin.py: OpenMM's Python objects are passed by address. Functions return -1 after an
// error; `uip_openmm_error` returns its message.
#include <openmm/Context.h>
#include <openmm/System.h>

#include <algorithm>
#include <stdexcept>

#include "export.h"
#include "uip_force.h"

using uip::openmm::UipForce;

namespace {

thread_local std::string last_error;

template <typename Work>
long guarded(const Work &work) {
  try {
    return work();
  } catch (const std::exception &error) {
    last_error = error.what();
    return -1;
  }
}

const UipForce &force_of(const OpenMM::Context &context, int index) {
  const auto *force = dynamic_cast<const UipForce *>(&context.getSystem().getForce(index));
  if (force == nullptr) throw std::runtime_error("force " + std::to_string(index) + " is no UipForce");
  return *force;
}

std::vector<double> quantity(OpenMM::Context &context, int index, const std::string &name) {
  const UipForce &force = force_of(context, index);
  if (name == "counters") {
    const auto &c = force.counters(context);
    return {static_cast<double>(c.num_evaluations), static_cast<double>(c.num_searches), c.neighbor_seconds,
            c.program_seconds, c.total_seconds};
  }
  const auto &results = force.results(context);
  if (name == "energy") return {results.energy};
  if (name == "node_energy") return results.node_energy;
  if (name == "magmoms") return results.magmoms;
  if (name == "virial") return results.virial;
  throw std::runtime_error("no quantity is called '" + name + "'");
}

}  // namespace

extern "C" {

UIP_EXPORT const char *uip_openmm_error() { return last_error.c_str(); }

/// 1 if a force is a UipForce, else 0.
UIP_EXPORT long uip_openmm_is_uip(const OpenMM::Force *force) {
  return dynamic_cast<const UipForce *>(force) != nullptr;
}

/// Copies up to `capacity` numbers to `values` and returns how many there are; eV, mu_B, seconds.
UIP_EXPORT long uip_openmm_read(OpenMM::Context *context, int index, const char *name, double *values, long capacity) {
  return guarded([&] {
    const std::vector<double> found = quantity(*context, index, name);
    std::copy_n(found.begin(), std::min<size_t>(found.size(), capacity), values);
    return static_cast<long>(found.size());
  });
}

/// Changes the total charge and spin of a force, in the System and in the Context.
UIP_EXPORT long uip_openmm_set_charge_and_spin(OpenMM::Context *context, int index, int charge, int spin) {
  return guarded([&] {
    // a Context returns its System as const, but the System belongs to the user, who may change it
    auto &force = const_cast<UipForce &>(force_of(*context, index));
    force.set_charge_and_spin(charge, spin);
    force.updateParametersInContext(*context);
    return 0L;
  });
}

}  // extern "C"
