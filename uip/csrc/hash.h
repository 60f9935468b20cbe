// SHA-256 (FIPS 180-4) of a file, to tell model files apart.
#pragma once

#include <string>

namespace uip {

/// 64 hexadecimal digits. Throws std::runtime_error if the file cannot be read.
std::string sha256_of_file(const std::string &path);

}  // namespace uip
