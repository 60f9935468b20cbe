#include "model_source.h"

#include <caffe2/serialize/file_adapter.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <vector>

#include "hash.h"

namespace uip {
namespace {

constexpr size_t piece_size = 1 << 20;

class Memory final : public caffe2::serialize::ReadAdapterInterface {
 public:
  explicit Memory(std::shared_ptr<const std::string> content) : content_(std::move(content)) {}

  size_t size() const override { return content_->size(); }

  size_t read(uint64_t position, void *target, size_t size, const char * /*what*/) const override {
    if (position >= content_->size()) return 0;
    const size_t count = std::min<size_t>(size, content_->size() - position);
    std::memcpy(target, content_->data() + position, count);
    return count;
  }

 private:
  std::shared_ptr<const std::string> content_;
};

}  // namespace

Bytes bytes_of_file(const std::string &path) {
  if (!std::filesystem::exists(path)) throw std::runtime_error("no such file");
  if (!std::filesystem::is_regular_file(path)) throw std::runtime_error("it is no file but a folder or a device");
  try {
    return std::make_shared<caffe2::serialize::FileAdapter>(path);
  } catch (const c10::Error &) {
    throw std::runtime_error("it cannot be read; check its permissions");
  }
}

Bytes bytes_in_memory(std::shared_ptr<const std::string> content) {
  return std::make_shared<Memory>(std::move(content));
}

std::string sha256_of(const Bytes &bytes) {
  Sha256 hash;
  std::vector<char> piece(piece_size);
  for (size_t done = 0; done < bytes->size();) {
    const size_t count = bytes->read(done, piece.data(), std::min(piece.size(), bytes->size() - done));
    if (count == 0) throw std::runtime_error("it became shorter while it was read; copy it again");
    hash.add({piece.data(), count});
    done += count;
  }
  return hash.digits();
}

std::unique_ptr<Archive> open_archive(const Bytes &bytes) {
  try {
    return std::make_unique<Archive>(bytes);
  } catch (const c10::Error &) {
    throw std::runtime_error(
        "a model file is an archive written by 'uip export', but this one is truncated or of another kind; "
        "copy or write it again");
  }
}

std::runtime_error damaged() {
  return std::runtime_error("it is damaged: its content is not what 'uip export' wrote; copy or write it again");
}

std::string content(Archive &archive, const std::string &name) {
  try {
    const auto [bytes, size] = archive.getRecord(name);
    return {static_cast<const char *>(bytes.get()), size};
  } catch (const c10::Error &) {  // compressed, and no longer decompresses
    throw damaged();
  }
}

size_t for_pieces(Archive &archive, const std::string &name, const std::function<void(std::string_view)> &use) {
  const size_t size = archive.getRecordSize(name);
  auto pieces = archive.createChunkReaderIter(name, size, piece_size);
  std::vector<char> piece(std::min(size, piece_size));
  for (size_t done = 0; done < size;) {
    const size_t count = pieces.next(piece.data());
    if (count == 0) throw damaged();
    use({piece.data(), count});
    done += count;
  }
  return size;
}

}  // namespace uip
