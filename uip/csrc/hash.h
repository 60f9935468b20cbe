// SHA-256 (FIPS 180-4): detects damaged model files, identifies files.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "export.h"

namespace uip {

class HashRoutine;

/// The hash of bytes given piece by piece: by libcrypto, which has the processor's instructions, or else by a routine
/// of our own, which takes about four times as long.
class UIP_EXPORT Sha256 {
 public:
  Sha256();
  ~Sha256();
  void add(std::string_view bytes);
  /// 64 hexadecimal digits; call once, last.
  std::string digits();

 private:
  std::unique_ptr<HashRoutine> routine_;
};

}  // namespace uip
