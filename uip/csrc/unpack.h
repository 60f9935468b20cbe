// A compiled program on disk: the system loads libraries from files alone.
#pragma once

#include <string>

#include "model_source.h"

namespace uip {

/// A private folder under TMPDIR (or /tmp) with the library of a model file, its record and its hash, removed by the
/// destructor. Folders that a killed process left behind are removed first.
class UnpackedProgram {
 public:
  /// `checksum` of the content: the same content always has the same path in a process, because a library that was
  /// loaded once is known by its path and never loaded a second time. `hash` of the file.
  /// Throws std::runtime_error if the folder for temporary files is missing, full, or forbids programs.
  UnpackedProgram(Archive &archive, const std::string &checksum, const std::string &hash);
  ~UnpackedProgram();
  UnpackedProgram(const UnpackedProgram &) = delete;
  UnpackedProgram &operator=(const UnpackedProgram &) = delete;

  const std::string &path() const { return folder_; }

  /// The part of such a folder in the layout of the archive.
  static std::string program(const std::string &folder) { return folder + "/program"; }
  /// A small file beside it. Throws std::runtime_error if this process does not see the folder.
  static std::string read(const std::string &folder, const char *name);
  static constexpr const char *record = "record", *hash = "sha256";

 private:
  void remove() noexcept;

  std::string folder_;
  int lock_ = -1;
};

}  // namespace uip
