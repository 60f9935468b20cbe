#include "model_file.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace uip::openmm {

std::shared_ptr<const ModelFile> ModelFile::read(const std::string &path, const std::string &sha256,
                                                 const std::string &trusted) {
  std::ifstream file(path, std::ios::binary);
  if (!std::filesystem::is_regular_file(path) || !file) throw std::runtime_error("no such model file: " + path);
  std::string content{std::istreambuf_iterator<char>(file), {}};
  return from_content(std::filesystem::path(path).filename().string(), std::move(content), sha256, trusted);
}

std::shared_ptr<const ModelFile> ModelFile::from_content(const std::string &name, std::string content,
                                                         const std::string &sha256, const std::string &trusted) {
  auto bytes = std::make_shared<const std::string>(std::move(content));
  auto file = CheckedFile::in_memory(name, bytes, Trust::given(trusted), sha256);
  return std::shared_ptr<const ModelFile>(new ModelFile(name, std::move(bytes), std::move(file)));
}

}  // namespace uip::openmm
