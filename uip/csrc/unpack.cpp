#include "unpack.h"

#include <fcntl.h>
#include <link.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <stdexcept>

#include "archive_check.h"

namespace uip {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view prefix = "uip-";
constexpr size_t name_length = 10;  // "uip-" and what mkdtemp adds
constexpr int max_attempts = 3;
constexpr time_t seconds_without_lock = 10;

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

// Whether `file` is still at `path`: its folder may have been removed, or removed and made again.
bool is_at(int file, const std::string &path) {
  struct stat open{}, named{};
  return fstat(file, &open) == 0 && lstat(path.c_str(), &named) == 0 && open.st_ino == named.st_ino &&
         open.st_dev == named.st_dev;
}

// The open lock file of a folder, locked; -1 if it is missing or another process holds it.
int locked(const std::string &folder, int flags) {
  const std::string path = folder + "/lock";
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
  if (file < 0) return -1;
  if (flock(file, LOCK_EX | LOCK_NB) == 0 && is_at(file, path)) return file;
  close(file);
  return -1;
}

// Contents first and the lock last: a process that is killed meanwhile leaves a folder that others remove.
void remove_locked(const std::string &folder, int lock) noexcept {
  std::error_code ignored;
  for (const auto &entry : fs::directory_iterator(folder, ignored)) {
    if (entry.path().filename() != "lock") fs::remove_all(entry.path(), ignored);
  }
  fs::remove_all(folder, ignored);
  if (lock >= 0) close(lock);
}

bool is_ours(const fs::path &path) {
  const std::string name = path.filename().string();
  struct stat info{};
  return name.size() == name_length && name.starts_with(prefix) && lstat(path.c_str(), &info) == 0 &&
         S_ISDIR(info.st_mode) && info.st_uid == geteuid();
}

// A process was killed between making the folder and the lock, or between removing them.
bool is_empty_and_old(const fs::path &path) {
  struct stat info{};
  std::error_code ignored;
  return stat(path.c_str(), &info) == 0 && std::time(nullptr) - info.st_mtime > seconds_without_lock &&
         fs::is_empty(path, ignored);
}

// The lock of a killed process is free.
void remove_abandoned(const std::string &place) {
  std::error_code ignored;
  for (const auto &entry : fs::directory_iterator(place, ignored)) {
    if (!is_ours(entry.path())) continue;
    const int lock = locked(entry.path().string(), 0);
    if (lock >= 0) {
      remove_locked(entry.path().string(), lock);
    } else if (is_empty_and_old(entry.path())) {
      fs::remove(entry.path(), ignored);
    }
  }
}

std::string new_folder(const std::string &place) {
  std::string name = place + "/" + std::string(prefix) + "XXXXXX";
  if (mkdtemp(name.data()) == nullptr) throw unusable(place, std::string("cannot be used: ") + std::strerror(errno));
  return name;
}

struct Folder {
  std::string path;
  int lock;
};

// The folder that this process used for the same content before, or a new one; made for this user alone. Another
// process may remove a folder that is not locked yet: then the next one. Where files cannot be locked, the last one
// stays without.
Folder make_folder(const std::string &place, const std::string &checksum) {
  static std::mutex guard;
  static std::map<std::string, std::string> known;
  const std::lock_guard<std::mutex> hold(guard);
  std::string &folder = known[place + ' ' + std::to_string(getpid()) + ' ' + checksum];
  for (int attempt = 1;; ++attempt) {
    if (folder.empty() || mkdir(folder.c_str(), 0700) != 0) folder = new_folder(place);
    const int lock = locked(folder, O_CREAT);
    if (lock >= 0 || attempt == max_attempts) return {folder, lock};
    remove_locked(folder, -1);
  }
}

// A new file, written piece by piece.
class NewFile {
 public:
  explicit NewFile(const fs::path &path) : path_(path) {
    std::error_code ignored;
    fs::create_directories(path.parent_path(), ignored);
    file_ = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0700);
    if (file_ < 0) fail(1);
  }
  ~NewFile() {
    if (file_ >= 0) close(file_);
  }
  NewFile(const NewFile &) = delete;
  NewFile &operator=(const NewFile &) = delete;

  void add(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t written = write(file_, bytes.data(), bytes.size());
      if (written <= 0) fail(bytes.size());
      bytes.remove_prefix(static_cast<size_t>(written));
    }
  }

  // Whether it is a library of this kind of system whose segments all lie inside: the loader of the system maps what
  // the headers name, and what lies beyond the end of a file kills the process.
  bool is_library(size_t size) const {
    ElfW(Ehdr) header{};
    if (!read(0, header)) return false;
    const bool known = std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 && header.e_type == ET_DYN &&
                       header.e_phentsize == sizeof(ElfW(Phdr));
    if (!known || header.e_phoff > size) return false;
    for (size_t k = 0; k < header.e_phnum; ++k) {
      ElfW(Phdr) segment{};
      if (!read(header.e_phoff + k * sizeof(segment), segment)) return false;
      if (segment.p_offset > size || segment.p_filesz > size - segment.p_offset) return false;
    }
    return true;
  }

 private:
  template <typename Header>
  bool read(size_t position, Header &header) const {
    const ssize_t count = pread(file_, &header, sizeof(header), static_cast<off_t>(position));
    return count == static_cast<ssize_t>(sizeof(header));
  }

  [[noreturn]] void fail(size_t size) const {
    const int error = errno;
    throw unusable(path_.parent_path().string(),
                   "has no room for " + std::to_string((size >> 20) + 1) + " MB: " + std::strerror(error));
  }

  fs::path path_;
  int file_ = -1;
};

void unpack(Archive &archive, const std::string &target) {
  for (const std::string &name : archive.getAllRecords()) {
    if (!is_program_file(name)) continue;
    NewFile file(fs::path(target) / name);
    const size_t size = for_pieces(archive, name, [&](std::string_view piece) { file.add(piece); });
    if (!name.ends_with(".so") || file.is_library(size)) continue;
    throw std::runtime_error("its library '" + name + "' is none, or is cut off; run 'uip export' again");
  }
}

}  // namespace

UnpackedProgram::UnpackedProgram(Archive &archive, const std::string &checksum, const std::string &file_hash) {
  const std::string place = temporary_place();
  remove_abandoned(place);
  const Folder made = make_folder(place, checksum);
  folder_ = made.path;
  lock_ = made.lock;
  try {
    unpack(archive, program(folder_));
    NewFile(fs::path(folder_) / record).add(content(archive, "extra/uip"));
    NewFile(fs::path(folder_) / hash).add(file_hash);
  } catch (...) {
    remove();
    throw;
  }
}

UnpackedProgram::~UnpackedProgram() { remove(); }

std::string UnpackedProgram::read(const std::string &folder, const char *name) {
  std::ifstream file(fs::path(folder) / name, std::ios::binary);
  if (file) return {std::istreambuf_iterator<char>(file), {}};
  throw std::runtime_error("processes of a computer share the folder where one of them unpacks the program, but " +
                           folder + " is not seen by this one; set TMPDIR to a folder that all of them see");
}

void UnpackedProgram::remove() noexcept {
  remove_locked(folder_, lock_);
  lock_ = -1;
}

}  // namespace uip
