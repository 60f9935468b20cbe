#include "model_file.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "hash.h"
#include "program.h"

namespace uip::openmm {
namespace {

std::string sha256_of(const std::string &bytes) {
  Sha256 hash;
  hash.add(bytes);
  return hash.digits();
}

/// A file with given content that exists as long as this object: libtorch reads programs from files alone.
class TemporaryFile {
 public:
  TemporaryFile(const std::string &suffix, const std::string &content) {
    path_ = (std::filesystem::temp_directory_path() / ("uip-XXXXXX" + suffix)).string();
    const int descriptor = mkstemps(path_.data(), static_cast<int>(suffix.size()));
    if (descriptor < 0) throw std::runtime_error("cannot write a temporary file " + path_ + "; set TMPDIR");
    close(descriptor);
    std::ofstream file(path_, std::ios::binary);
    file.write(content.data(), static_cast<std::streamsize>(content.size()));
    file.close();
    if (file) return;
    std::filesystem::remove(path_);
    throw std::runtime_error("cannot write " + std::to_string(content.size()) + " bytes to the temporary file " +
                             path_ + "; make room, or set TMPDIR to another folder");
  }
  ~TemporaryFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  TemporaryFile(const TemporaryFile &) = delete;
  TemporaryFile &operator=(const TemporaryFile &) = delete;

  const std::string &path() const { return path_; }

 private:
  std::string path_;
};

/// Calls `work` with a file of this content; errors name the model, not the temporary file.
template <typename Work>
auto with_file(const std::string &name, const std::string &content, const Work &work) {
  const TemporaryFile file(std::filesystem::path(name).extension().string(), content);
  try {
    return work(file.path());
  } catch (const std::exception &error) {
    const std::string prefix = "cannot load " + file.path() + ": ";
    const std::string message = error.what();
    const bool prefixed = message.compare(0, prefix.size(), prefix) == 0;
    throw std::runtime_error("cannot load " + name + ": " + (prefixed ? message.substr(prefix.size()) : message));
  }
}

constexpr char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::array<int, 256> digit_values() {
  std::array<int, 256> values;
  values.fill(-1);
  for (int k = 0; k < 64; ++k) values[static_cast<unsigned char>(DIGITS[k])] = k;
  return values;
}

}  // namespace

std::shared_ptr<const ModelFile> ModelFile::read(const std::string &path, const std::string &sha256) {
  std::ifstream file(path, std::ios::binary);
  if (!std::filesystem::is_regular_file(path) || !file) throw std::runtime_error("no such model file: " + path);
  std::string content{std::istreambuf_iterator<char>(file), {}};
  return from_content(std::filesystem::path(path).filename().string(), std::move(content), sha256);
}

std::shared_ptr<const ModelFile> ModelFile::from_content(const std::string &name, std::string content,
                                                         const std::string &sha256) {
  return std::shared_ptr<const ModelFile>(new ModelFile(name, std::move(content), sha256));
}

ModelFile::ModelFile(std::string name, std::string content, const std::string &sha256)
    : name_(std::move(name)), content_(std::move(content)), sha256_(sha256_of(content_)) {
  if (!sha256.empty() && sha256 != sha256_) {
    throw std::runtime_error("the model " + name_ + " must have sha256 " + sha256 + ", got " + sha256_ +
                             "; it was damaged or replaced, copy it again");
  }
  metadata_ = with_file(name_, content_, [](const std::string &path) { return read_record(path).metadata; });
}

std::unique_ptr<Model> ModelFile::load(int device_index) const {
  return with_file(name_, content_, [&](const std::string &path) { return Model::load(path, device_index); });
}

std::string to_base64(const std::string &bytes) {
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t k = 0; k < bytes.size(); k += 3) {
    const size_t count = std::min<size_t>(3, bytes.size() - k);
    uint32_t word = 0;
    for (size_t m = 0; m < 3; ++m) word = word << 8 | (m < count ? static_cast<unsigned char>(bytes[k + m]) : 0);
    for (size_t m = 0; m < 4; ++m) text += m <= count ? DIGITS[word >> (18 - 6 * m) & 63] : '=';
  }
  return text;
}

std::string from_base64(const std::string &text) {
  static const std::array<int, 256> values = digit_values();
  const size_t padding = text.size() - std::min(text.size(), text.find_last_not_of('=') + 1);
  if (text.size() % 4 != 0 || padding > 2) throw std::runtime_error("base64 text is cut short; write the XML again");
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3);
  uint32_t word = 0;
  for (size_t k = 0; k < text.size(); ++k) {
    const int value = k < text.size() - padding ? values[static_cast<unsigned char>(text[k])] : 0;
    if (value < 0) throw std::runtime_error("base64 text holds a character of another kind; write the XML again");
    word = word << 6 | static_cast<uint32_t>(value);
    if (k % 4 != 3) continue;
    for (int shift = 16; shift >= 0; shift -= 8) bytes += static_cast<char>(word >> shift & 0xff);
    word = 0;
  }
  bytes.resize(bytes.size() - padding);
  return bytes;
}

}  // namespace uip::openmm
