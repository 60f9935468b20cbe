// SPDX-License-Identifier: GPL-2.0-only
// The function of libuiplammps.so that plugin.cpp calls, once LAMMPS and MPI are known to fit.
#include <lammps/error.h>
#include <lammps/lammps.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/version.h>

#include <string>

#include "export.h"
#include "pair_uip.h"

namespace {

std::string version_text(uint64_t version) {
  const auto part = [version](int shift) { return std::to_string((version >> shift) & 0xff); };
  return part(56) + "." + part(48) + "." + part(40);
}

}  // namespace

extern "C" UIP_EXPORT LAMMPS_NS::Pair *uip_create_pair(LAMMPS_NS::LAMMPS *lammps) {
  const auto torch = version_text(aoti_torch_abi_version()), built = version_text(TORCH_ABI_VERSION);
  if (torch != built) {
    lammps->error->all(FLERR, "pair_style uip was built for torch " + built + ", but this is torch " + torch +
                                  "; build the plugin for this torch, see docs/lammps_build.md");
  }
  return new uip::lammps::PairUIP(lammps);
}
