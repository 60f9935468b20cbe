#include "recycled.h"

#include <ATen/Functions.h>
#include <ATen/ops/from_blob.h>

#include <cstdlib>
#include <list>
#include <mutex>
#include <new>

namespace uip {
namespace {

constexpr size_t smallest = size_t{1} << 20, most_free = size_t{1} << 29, alignment = 64;

struct Block {
  void *memory;
  size_t bytes;
};

/// Blocks that nobody uses, the last that was returned first.
class FreeBlocks {
 public:
  /// One of at least `bytes`; numbers of edges change little from step to step, so one of twice that would be wasted.
  Block take(size_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (auto block = blocks_.begin(); block != blocks_.end(); ++block) {
        if (block->bytes < bytes || block->bytes > 2 * bytes) continue;
        const Block found = *block;
        total_ -= found.bytes;
        blocks_.erase(block);
        return found;
      }
    }
    const size_t roomy = (bytes + bytes / 8 + alignment - 1) / alignment * alignment;
    void *memory = std::aligned_alloc(alignment, roomy);
    if (memory == nullptr) throw std::bad_alloc();
    return {memory, roomy};
  }

  void give_back(Block block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    blocks_.push_front(block);
    total_ += block.bytes;
    while (total_ > most_free) {
      total_ -= blocks_.back().bytes;
      std::free(blocks_.back().memory);
      blocks_.pop_back();
    }
  }

 private:
  std::mutex mutex_;
  std::list<Block> blocks_;
  size_t total_ = 0;
};

FreeBlocks &free_blocks() {
  static auto *blocks = new FreeBlocks;  // never destroyed: tensors may outlive static objects
  return *blocks;
}

}  // namespace

at::Tensor recycled_empty(at::IntArrayRef sizes, const at::TensorOptions &options) {
  size_t bytes = options.dtype().itemsize();
  for (const int64_t size : sizes) bytes *= static_cast<size_t>(size);
  if (bytes <= smallest) return at::empty(sizes, options);
  const Block block = free_blocks().take(bytes);
  return at::from_blob(block.memory, sizes, [block](void *) { free_blocks().give_back(block); }, options);
}

}  // namespace uip
