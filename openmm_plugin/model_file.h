// The bytes of a model file, as an OpenMM Force stores them: read once, identified by their sha256, written to XML
// unchanged. No code of the program runs before `load`.
#pragma once

#include <memory>
#include <string>

#include "checked_file.h"
#include "export.h"

namespace uip::openmm {

class UIP_EXPORT ModelFile {
 public:
  /// Reads a file. Throws std::runtime_error: no such file, damaged, of another kind, of a newer schema, not the one
  /// with the hash `sha256` (empty = any), or not signed by a key in the file `trusted` (empty = any) and in the one
  /// that UIP_TRUSTED names.
  static std::shared_ptr<const ModelFile> read(const std::string &path, const std::string &sha256 = "",
                                               const std::string &trusted = "");
  /// Takes bytes that were a file with the base name `name`. Throws as `read`.
  static std::shared_ptr<const ModelFile> from_content(const std::string &name, std::string content,
                                                       const std::string &sha256 = "", const std::string &trusted = "");

  const std::string &name() const { return name_; }
  const std::string &content() const { return *content_; }
  const std::string &sha256() const { return metadata().hash; }
  const Metadata &metadata() const { return file_.metadata(); }

  /// The program, after its self-test. Throws std::runtime_error.
  std::unique_ptr<Model> load(int device_index) const { return file_.load(device_index); }

 private:
  ModelFile(std::string name, std::shared_ptr<const std::string> content, CheckedFile file)
      : name_(std::move(name)), content_(std::move(content)), file_(std::move(file)) {}

  std::string name_;
  std::shared_ptr<const std::string> content_;
  CheckedFile file_;
};

}  // namespace uip::openmm
