#include "trust.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string_view>

#include "crypto.h"
#include "text_codes.h"

namespace uip {
namespace {

constexpr const char *variable = "UIP_TRUSTED";
constexpr std::string_view kind = "ssh-ed25519";
constexpr std::string_view context = "uip model file, version 2: ";
constexpr size_t key_size = 32, signature_size = 64;
constexpr size_t shown = 40;  // of a line that is no key

/// What uip/program/signature.py writes, as it writes it.
struct Signature {
  std::string key, bytes;
};

Signature parse_signature(std::string_view text) {
  constexpr std::string_view begin = "{\"key\": \"", middle = "\", \"signature\": \"", end = "\"}";
  constexpr size_t key = begin.size(), rest = key + 2 * key_size, bytes = rest + middle.size();
  constexpr size_t last = bytes + 2 * signature_size;
  try {
    if (text.size() == last + end.size() && text.starts_with(begin) && text.substr(rest, middle.size()) == middle &&
        text.ends_with(end)) {
      return {from_hexadecimal(text.substr(key, 2 * key_size)),
              from_hexadecimal(text.substr(bytes, 2 * signature_size))};
    }
  } catch (const std::runtime_error &) {
  }
  throw std::runtime_error("its signature is not what 'uip export --sign' writes; do not use it");
}

/// The key in what follows "ssh-ed25519": two texts, each after its length in four bytes (RFC 4253, section 6.6).
std::string decoded_key(const std::string &encoded) {
  const std::string bytes = from_base64(encoded);
  const std::string head = std::string("\0\0\0\x0b", 4) + std::string(kind) + std::string("\0\0\0\x20", 4);
  if (bytes.size() != head.size() + key_size || !bytes.starts_with(head)) throw std::runtime_error("another length");
  return bytes.substr(head.size());
}

/// Comments by key.
std::map<std::string, std::string> read_keys(const std::string &path) {
  std::ifstream file;
  if (std::filesystem::is_regular_file(path)) file.open(path);  // to open a pipe would wait for its other end
  if (!file.is_open()) {
    throw std::runtime_error("it must be signed by a key in the file '" + path +
                             "', but that cannot be read; name a file of public keys, lines that begin with '" +
                             std::string(kind) + "'");
  }
  std::map<std::string, std::string> keys;
  for (std::string line; std::getline(file, line);) {
    if (line.find("PRIVATE KEY") != std::string::npos) {
      throw std::runtime_error(path +
                               " must hold public keys, but holds a private one; name the file that ends in '.pub'");
    }
    std::istringstream words(line);
    std::string first, encoded, comment;
    words >> first >> encoded >> std::ws;
    std::getline(words, comment);
    if (first != kind || !line.starts_with(kind)) continue;
    try {
      keys[decoded_key(encoded)] = comment.empty() ? encoded : comment;
    } catch (const std::runtime_error &) {
      throw std::runtime_error(path + " must hold public keys, one a line, but '" + line.substr(0, shown) +
                               "' is none; copy the key again");
    }
  }
  if (!keys.empty()) return keys;
  throw std::runtime_error(path + " must hold public keys, lines that begin with '" + std::string(kind) +
                           "', but has none; add those whose files you trust");
}

void check_with(const std::string &path, const std::string &signature, const std::string &message) {
  const auto keys = read_keys(path);
  if (signature.empty()) {
    throw std::runtime_error("it must be signed by a key in " + path +
                             ", but is not signed; ask its author for 'uip export --sign KEY'");
  }
  const Signature found = parse_signature(signature);
  const auto signer = keys.find(found.key);
  if (signer == keys.end()) {
    throw std::runtime_error("it must be signed by a key in " + path + ", but is signed by another, " +
                             to_hexadecimal(found.key) + "; do not use it, or add this key if you trust its owner");
  }
  if (is_signed(found.key, found.bytes, message)) return;
  throw std::runtime_error("it was changed after it was signed by " + signer->second + "; do not use it");
}

}  // namespace

Trust Trust::given(const std::string &key_file) {
  Trust trust;
  if (!key_file.empty()) trust.key_files_.push_back(key_file);
  // set but empty: an error when it is read, and not all files accepted
  if (const char *also = std::getenv(variable)) trust.key_files_.push_back(also);
  return trust;
}

void Trust::check(const std::string &signature, const std::string &message) const {
  for (const std::string &path : key_files_) check_with(path, signature, message);
}

std::string signed_message(const std::string &checksum, const std::vector<std::pair<std::string, size_t>> &entries) {
  std::string message = std::string(context) + checksum + '\n';
  // the checksum is of names and contents in one row, and does not tell where one ends
  for (const auto &[name, size] : entries) message += std::to_string(size) + ' ' + name + '\0';
  return message;
}

}  // namespace uip
