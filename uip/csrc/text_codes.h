// Bytes as text: hexadecimal digits and base64 (RFC 4648).
#pragma once

#include <string>
#include <string_view>

#include "export.h"

namespace uip {

/// Lower-case digits, two for each byte. `from_hexadecimal` throws std::runtime_error for what `to_hexadecimal` cannot
/// have written; so does `from_base64` for `to_base64`.
std::string to_hexadecimal(std::string_view bytes);
std::string from_hexadecimal(std::string_view text);

UIP_EXPORT std::string to_base64(std::string_view bytes);
UIP_EXPORT std::string from_base64(std::string_view text);

}  // namespace uip
