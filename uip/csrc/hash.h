// SHA-256 (FIPS 180-4): detects damaged model files, identifies files.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "export.h"

namespace uip {

/// The hash of bytes given piece by piece.
class UIP_EXPORT Sha256 {
 public:
  void add(std::string_view bytes);
  /// 64 hexadecimal digits; call once, last.
  std::string digits();

 private:
  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::string rest_;  // shorter than a block
  uint64_t num_bytes_ = 0;
};

/// Throws std::runtime_error if the file cannot be read.
UIP_EXPORT std::string sha256_of_file(const std::string &path);

}  // namespace uip
