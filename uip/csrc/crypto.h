// Routines of OpenSSL's libcrypto, looked up in the running process or on the system when they are first needed:
// nothing has to be installed to build or to use uip without them.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace uip {

/// A running SHA-256.
class HashRoutine {
 public:
  virtual ~HashRoutine() = default;
  virtual void add(std::string_view bytes) = 0;
  /// 32 bytes; call once, last.
  virtual std::string digest() = 0;
};

/// With the instructions that the processor has for it; nullptr if there is no libcrypto.
std::unique_ptr<HashRoutine> library_sha256();

/// Whether `signature` (64 bytes) of `message` was made with the private key of `public_key` (32 bytes, ed25519).
/// Throws std::runtime_error if there is no libcrypto, or one that cannot tell.
bool is_signed(const std::string &public_key, const std::string &signature, const std::string &message);

}  // namespace uip
