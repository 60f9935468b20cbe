// A model file on its way from its bytes to a loaded program, in steps, for engines whose processes share the work.
#pragma once

#include <memory>
#include <string>

#include "export.h"
#include "model.h"
#include "trust.h"

namespace uip {

/// A model file whose content was checked: entries, checksum, signature, version of the schema. Nothing of it has run.
/// All functions throw std::runtime_error with a message for users.
class UIP_EXPORT CheckedFile {
 public:
  static CheckedFile read(const std::string &path, const Trust &trust);
  /// Bytes that were a file called `name`, with this hash of the file (empty: any).
  static CheckedFile in_memory(const std::string &name, std::shared_ptr<const std::string> content, const Trust &trust,
                               const std::string &sha256 = "");
  /// The file `path` as another process of this computer has checked and unpacked it.
  static CheckedFile from_folder(const std::string &path, const std::string &folder);

  const Metadata &metadata() const;

  /// Unpacks a compiled program into a folder that `from_folder` takes, and that exists as long as this object; "" for
  /// TorchScript, which every process reads itself.
  std::string unpack();

  /// The program on a device, after its self-test.
  std::unique_ptr<Model> load(int device_index) const;

 private:
  struct State;
  explicit CheckedFile(std::shared_ptr<State> state) : state_(std::move(state)) {}

  std::shared_ptr<State> state_;
};

}  // namespace uip
