#include "archive_check.h"

#include <algorithm>
#include <set>
#include <stdexcept>
#include <string_view>
#include <vector>

namespace uip {
namespace {

constexpr std::string_view program_folder = "data/aotinductor/model/";
// Compressed code of TorchScript has a tenth of this; more is made to fill a memory or a disk.
constexpr size_t max_ratio = 100;

const std::set<std::string, std::less<>> common = {
    ".data/version", ".data/serialization_id", "byteorder",          "version",
    "extra/uip",     "extra/uip_sha256",       "extra/uip_signature"};
const std::set<std::string, std::less<>> of_compiled = {"archive_format", "archive_version"};
const std::set<std::string, std::less<>> of_script = {"data.pkl", "constants.pkl"};
const std::vector<std::string_view> program_suffixes = {".so", ".json", ".cubin", ".hsaco", "_serialized_weights.bin"};
const std::vector<std::string_view> source_suffixes = {".cpp", ".h"};

std::runtime_error refused(const std::string &what) {
  return std::runtime_error("it must hold what 'uip export' writes, but " + what +
                            "; do not use it, and ask for its origin");
}

bool ends_with(std::string_view name, const std::vector<std::string_view> &suffixes) {
  return std::any_of(suffixes.begin(), suffixes.end(), [&](std::string_view end) { return name.ends_with(end); });
}

// Whether a name stays in its folder on every system.
bool is_plain(const std::string &name) {
  if (name.empty() || name.front() == '/' || name.find_first_of(std::string("\\:\0", 3)) != std::string::npos) {
    return false;
  }
  size_t begin = 0;
  for (size_t end = 0; end != std::string::npos; begin = end + 1) {
    end = name.find('/', begin);
    const std::string part = name.substr(begin, end == std::string::npos ? end : end - begin);
    if (part.empty() || part == "." || part == "..") return false;
  }
  return true;
}

bool is_in_program_folder(const std::string &name) {
  return name.starts_with(program_folder) && name.find('/', program_folder.size()) == std::string::npos;
}

bool is_known(const std::string &name, bool compiled) {
  if (common.contains(name)) return true;
  if (compiled) {
    return of_compiled.contains(name) ||
           (is_in_program_folder(name) && (ends_with(name, program_suffixes) || ends_with(name, source_suffixes)));
  }
  return of_script.contains(name) || name.starts_with("constants/") || name.starts_with("data/") ||
         (name.starts_with("code/") && ends_with(name, {".py", ".debug_pkl"}));
}

void check_sizes(caffe2::serialize::PyTorchStreamReader &archive, const std::vector<std::string> &names,
                 size_t file_size) {
  const size_t most = file_size * max_ratio;
  size_t left = most;
  for (const std::string &name : names) {
    const size_t size = archive.getRecordSize(name);
    if (size > left) throw refused("'" + name + "' has a size of " + std::to_string(size) + " bytes");
    left -= size;
  }
}

}  // namespace

bool is_program_file(const std::string &name) {
  return is_in_program_folder(name) && ends_with(name, program_suffixes);
}

void check_entries(caffe2::serialize::PyTorchStreamReader &archive, bool compiled, size_t file_size) {
  const std::vector<std::string> names = archive.getAllRecords();
  std::set<std::string> seen;
  size_t libraries = 0;
  for (const std::string &name : names) {
    if (!is_plain(name)) throw refused("the name '" + name + "' leads out of its folder");
    if (!seen.insert(name).second) throw refused("it holds '" + name + "' twice");
    if (name.ends_with("_flags.json")) throw refused("'" + name + "' asks for a compiler");
    if (!is_known(name, compiled)) throw refused("it also holds '" + name + "'");
    libraries += name.ends_with(".so");
  }
  if (libraries != (compiled ? 1 : 0)) throw refused("it holds " + std::to_string(libraries) + " libraries (.so)");
  check_sizes(archive, names, file_size);
}

}  // namespace uip
