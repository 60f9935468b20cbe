// A compiled program on disk: the system loads libraries from files alone.
#pragma once

#include <string>

namespace uip {

/// A private folder under TMPDIR (or /tmp) with the library of a model file, removed by the destructor. Folders that a
/// killed process left behind are removed first.
class UnpackedProgram {
 public:
  /// `checksum` of the content: the same content always has the same path in a process, because a library that was
  /// loaded once is known by its path and never loaded a second time.
  /// Throws std::runtime_error if the folder for temporary files is missing, full, or forbids programs.
  UnpackedProgram(const std::string &model_file, const std::string &checksum);
  ~UnpackedProgram();
  UnpackedProgram(const UnpackedProgram &) = delete;
  UnpackedProgram &operator=(const UnpackedProgram &) = delete;

  /// The folder in the layout of the archive.
  std::string program() const { return folder_ + "/program"; }

 private:
  void remove() noexcept;

  std::string folder_;
  int lock_ = -1;
};

}  // namespace uip
