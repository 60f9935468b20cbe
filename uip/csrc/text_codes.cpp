#include "text_codes.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <stdexcept>

namespace uip {
namespace {

constexpr std::string_view hexadecimal = "0123456789abcdef";
constexpr std::string_view base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::array<int, 256> digit_values(std::string_view digits) {
  std::array<int, 256> values;
  values.fill(-1);
  for (size_t k = 0; k < digits.size(); ++k) values[static_cast<unsigned char>(digits[k])] = static_cast<int>(k);
  return values;
}

}  // namespace

std::string to_hexadecimal(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) {
    text += hexadecimal[static_cast<unsigned char>(byte) >> 4];
    text += hexadecimal[byte & 15];
  }
  return text;
}

std::string from_hexadecimal(std::string_view text) {
  static const std::array<int, 256> values = digit_values(hexadecimal);
  std::string bytes;
  for (size_t k = 0; k + 1 < text.size(); k += 2) {
    const int high = values[static_cast<unsigned char>(text[k])], low = values[static_cast<unsigned char>(text[k + 1])];
    if (high < 0 || low < 0) break;
    bytes += static_cast<char>(16 * high + low);
  }
  if (2 * bytes.size() != text.size()) throw std::runtime_error("hexadecimal text holds a character of another kind");
  return bytes;
}

std::string to_base64(std::string_view bytes) {
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t k = 0; k < bytes.size(); k += 3) {
    const size_t count = std::min<size_t>(3, bytes.size() - k);
    uint32_t word = 0;
    for (size_t m = 0; m < 3; ++m) word = word << 8 | (m < count ? static_cast<unsigned char>(bytes[k + m]) : 0);
    for (size_t m = 0; m < 4; ++m) text += m <= count ? base64[word >> (18 - 6 * m) & 63] : '=';
  }
  return text;
}

std::string from_base64(std::string_view text) {
  static const std::array<int, 256> values = digit_values(base64);
  const size_t padding = text.size() - std::min(text.size(), text.find_last_not_of('=') + 1);
  if (text.size() % 4 != 0 || padding > 2) throw std::runtime_error("base64 text is cut short");
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3);
  uint32_t word = 0;
  for (size_t k = 0; k < text.size(); ++k) {
    const int value = k < text.size() - padding ? values[static_cast<unsigned char>(text[k])] : 0;
    if (value < 0) throw std::runtime_error("base64 text holds a character of another kind");
    word = word << 6 | static_cast<uint32_t>(value);
    if (k % 4 != 3) continue;
    for (int shift = 16; shift >= 0; shift -= 8) bytes += static_cast<char>(word >> shift & 0xff);
    word = 0;
  }
  bytes.resize(bytes.size() - padding);
  return bytes;
}

}  // namespace uip
