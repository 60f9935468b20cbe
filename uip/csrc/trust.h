// Whom the user trusts: files of public keys (lines "ssh-ed25519 KEY COMMENT"), and signatures by one of them.
#pragma once

#include <string>
#include <vector>

#include "export.h"

namespace uip {

/// The files of keys that a model file must satisfy, each of them; none: every model file is accepted.
class UIP_EXPORT Trust {
 public:
  /// The file of keys that the user named ("": none), and that in the environment variable UIP_TRUSTED.
  static Trust given(const std::string &key_file);
  /// For a file that this process wrote itself.
  static Trust own_file() { return {}; }

  /// Throws std::runtime_error unless each file of keys has the key that made `signature` (the entry of the archive, ""
  /// if it has none) of `message`.
  void check(const std::string &signature, const std::string &message) const;

 private:
  std::vector<std::string> key_files_;
};

/// What is signed: the checksum of all entries, and which bytes belong to which entry. `entries`: names and sizes of
/// all but checksum and signature, in the order of names.
std::string signed_message(const std::string &checksum, const std::vector<std::pair<std::string, size_t>> &entries);

}  // namespace uip
