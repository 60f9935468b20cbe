#include "unpack.h"

#include <caffe2/serialize/inline_container.h>
#include <fcntl.h>
#include <link.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <stdexcept>

#include "archive_check.h"

namespace uip {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view prefix = "uip-";
constexpr size_t name_length = 10;  // "uip-" and what mkdtemp adds

std::runtime_error unusable(const std::string &place, const std::string &why) {
  return std::runtime_error("a compiled program needs a folder for temporary files, but " + place + " " + why +
                            "; set TMPDIR to another folder on a local disk, or export TorchScript (-o model.pt)");
}

std::string temporary_place() {
  const char *chosen = std::getenv("TMPDIR");
  const std::string place = chosen != nullptr && *chosen != '\0' ? fs::absolute(chosen).string() : "/tmp";
  struct statvfs system{};
  if (statvfs(place.c_str(), &system) != 0) throw unusable(place, std::string("is not there: ") + std::strerror(errno));
  if ((system.f_flag & ST_NOEXEC) != 0) throw unusable(place, "forbids programs (noexec)");
  return place;
}

// An open lock file, locked; -1 if it is missing or another process holds it.
int locked(const std::string &folder, int flags) {
  const int file = open((folder + "/lock").c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
  if (file < 0) return -1;
  if (flock(file, LOCK_EX | LOCK_NB) == 0) return file;
  close(file);
  return -1;
}

bool is_ours(const fs::path &path) {
  const std::string name = path.filename().string();
  struct stat info{};
  return name.size() == name_length && name.starts_with(prefix) && lstat(path.c_str(), &info) == 0 &&
         S_ISDIR(info.st_mode) && info.st_uid == geteuid();
}

// The lock of a killed process is free.
void remove_abandoned(const std::string &place) {
  std::error_code ignored;
  for (const auto &entry : fs::directory_iterator(place, ignored)) {
    if (!is_ours(entry.path())) continue;
    const int lock = locked(entry.path().string(), 0);
    if (lock < 0) continue;
    fs::remove_all(entry.path(), ignored);
    close(lock);
  }
}

std::string new_folder(const std::string &place) {
  std::string name = place + "/" + std::string(prefix) + "XXXXXX";
  if (mkdtemp(name.data()) == nullptr) throw unusable(place, std::string("cannot be used: ") + std::strerror(errno));
  return name;
}

// The folder that this process used for the same content before, or a new one; made for this user alone.
std::string make_folder(const std::string &place, const std::string &checksum) {
  static std::mutex guard;
  static std::map<std::string, std::string> known;
  const std::lock_guard<std::mutex> hold(guard);
  std::string &folder = known[place + ' ' + std::to_string(getpid()) + ' ' + checksum];
  if (folder.empty() || mkdir(folder.c_str(), 0700) != 0) folder = new_folder(place);
  return folder;
}

void write_file(const fs::path &path, const void *bytes, size_t size) {
  fs::create_directories(path.parent_path());
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0700);
  bool good = file >= 0;
  for (size_t done = 0; good && done < size;) {
    const ssize_t written = write(file, static_cast<const char *>(bytes) + done, size - done);
    good = written > 0;
    if (good) done += static_cast<size_t>(written);
  }
  const int error = errno;
  if (file >= 0) close(file);
  if (good) return;
  throw unusable(path.parent_path().string(),
                 "has no room for " + std::to_string(size >> 20) + " MB: " + std::strerror(error));
}

// Whether bytes are a library of this kind of system whose segments all lie inside: the loader of the system maps what
// the headers name, and what lies beyond the end of a file kills the process.
bool is_library(const char *bytes, size_t size) {
  ElfW(Ehdr) header{};
  if (size < sizeof(header)) return false;
  std::memcpy(&header, bytes, sizeof(header));
  const bool known = std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 && header.e_type == ET_DYN &&
                     header.e_phentsize == sizeof(ElfW(Phdr));
  if (!known || header.e_phoff > size || header.e_phnum > (size - header.e_phoff) / sizeof(ElfW(Phdr))) return false;
  for (size_t k = 0; k < header.e_phnum; ++k) {
    ElfW(Phdr) segment{};
    std::memcpy(&segment, bytes + header.e_phoff + k * sizeof(segment), sizeof(segment));
    if (segment.p_offset > size || segment.p_filesz > size - segment.p_offset) return false;
  }
  return true;
}

void unpack(const std::string &model_file, const std::string &target) {
  caffe2::serialize::PyTorchStreamReader archive(model_file);
  check_entries(archive, /*compiled=*/true, fs::file_size(model_file));
  for (const std::string &name : archive.getAllRecords()) {
    if (!is_program_file(name)) continue;
    const auto [bytes, size] = archive.getRecord(name);
    if (name.ends_with(".so") && !is_library(static_cast<const char *>(bytes.get()), size)) {
      throw std::runtime_error("its library '" + name + "' is none, or is cut off; run 'uip export' again");
    }
    write_file(fs::path(target) / name, bytes.get(), size);
  }
}

}  // namespace

UnpackedProgram::UnpackedProgram(const std::string &model_file, const std::string &checksum) {
  const std::string place = temporary_place();
  remove_abandoned(place);
  folder_ = make_folder(place, checksum);
  lock_ = locked(folder_, O_CREAT);
  try {
    unpack(model_file, program());
  } catch (...) {
    remove();
    throw;
  }
}

UnpackedProgram::~UnpackedProgram() { remove(); }

void UnpackedProgram::remove() noexcept {
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
  if (lock_ >= 0) close(lock_);
}

}  // namespace uip
