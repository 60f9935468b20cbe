// The bytes of a model file, as an OpenMM Force stores them: read once, identified by their sha256, written to XML
// unchanged. No code of the program runs before `load`.
#pragma once

#include <memory>
#include <string>

#include "export.h"
#include "model.h"

namespace uip::openmm {

class UIP_EXPORT ModelFile {
 public:
  /// Reads a file. Throws std::runtime_error: no such file, damaged, of another kind, of a newer schema, or not the
  /// one with the hash `sha256` (empty = any).
  static std::shared_ptr<const ModelFile> read(const std::string &path, const std::string &sha256 = "");
  /// Takes bytes that were a file with the base name `name`. Throws as `read`.
  static std::shared_ptr<const ModelFile> from_content(const std::string &name, std::string content,
                                                       const std::string &sha256 = "");

  const std::string &name() const { return name_; }
  const std::string &content() const { return content_; }
  const std::string &sha256() const { return sha256_; }
  const Metadata &metadata() const { return metadata_; }

  /// The program, after its self-test. Throws std::runtime_error.
  std::unique_ptr<Model> load(int device_index) const;

 private:
  ModelFile(std::string name, std::string content, const std::string &sha256);

  std::string name_, content_, sha256_;
  Metadata metadata_;
};

/// Bytes to text and back. `from_base64` throws std::runtime_error for what `to_base64` cannot have written.
std::string to_base64(const std::string &bytes);
std::string from_base64(const std::string &text);

}  // namespace uip::openmm
