// The gradient of edges on several threads (message_kernels.h), with results that do not depend on their number.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "flush_denormals.h"
#include "gated_message.h"
#include "recycled.h"

namespace uip {

constexpr int64_t messages_per_block = 1024, most_blocks = 8, columns_per_task = 64;

/// The gradient of edges, whose neighbours belong to any thread: centres are cut into blocks. Each block sums the
/// gradients of its neighbours apart, and the sums are added in the order of blocks.
template <typename T>
class EdgeBlocks {
 public:
  /// Messages of column j of `second`: order[offsets[j]] .. order[offsets[j + 1] - 1], ascending.
  EdgeBlocks(const Messages<T> &messages, const MessageGradients<T> &to, int64_t num_centres, const at::Tensor &second,
             const int64_t *offsets, const int64_t *order)
      : messages_(messages),
        to_(to),
        num_columns_(second.size(0)),
        width_(second.size(1)),
        offsets_(offsets),
        order_(order) {
    const int64_t *begin = messages.offsets, *end = begin + num_centres, num_messages = *end;
    const int64_t count = std::clamp<int64_t>(num_messages / messages_per_block, 1, most_blocks);
    for (int64_t block = 0; block <= count; ++block) {
      starts_.push_back(std::lower_bound(begin, end, block * num_messages / count) - begin);
    }
    at_once_ = std::min<int64_t>(at::get_num_threads(), count);
    if (count > 1) sums_ = recycled_empty({at_once_, num_columns_, width_}, second.options());
  }

  void run() {
    const int64_t count = static_cast<int64_t>(starts_.size()) - 1;
    for (int64_t first = 0; first < count; first += at_once_) {
      const int64_t last = std::min(first + at_once_, count);
      at::parallel_for(first, last, 1, [&](int64_t begin, int64_t end) {
        for (int64_t block = begin; block < end; ++block) run_block(block, first);
      });
      at::parallel_for(0, num_columns_, columns_per_task, [&](int64_t begin, int64_t end) {
        for (int64_t block = std::max<int64_t>(first, 1); block < last; ++block) add(block, first, begin, end);
      });
    }
  }

 private:
  /// Sums of a block; the first one's go to where all go.
  T *sums(int64_t block, int64_t first) {
    return block == 0 ? to_.second : sums_.mutable_data_ptr<T>() + (block - first) * num_columns_ * width_;
  }

  /// Whether the column has messages of the block.
  bool touched(int64_t column, int64_t block) const {
    const int64_t *end = order_ + offsets_[column + 1];
    const int64_t *found = std::lower_bound(order_ + offsets_[column], end, messages_.offsets[starts_[block]]);
    return found < end && *found < messages_.offsets[starts_[block + 1]];
  }

  void run_block(int64_t block, int64_t first) {
    auto to = to_;
    to.second = sums(block, first);
    for (int64_t column = 0; block > 0 && column < num_columns_; ++column) {
      if (touched(column, block)) std::fill_n(to.second + column * width_, width_, T(0));
    }
    message_kernels<T>(messages_.channels).backward(messages_, to, starts_[block], starts_[block + 1]);
  }

  void add(int64_t block, int64_t first, int64_t begin, int64_t end) {
    const FlushDenormals flush;
    for (int64_t column = begin; column < end; ++column) {
      if (!touched(column, block)) continue;
      const T *__restrict from = sums(block, first) + column * width_;
      T *__restrict total = to_.second + column * width_;
      for (int64_t k = 0; k < width_; ++k) total[k] += from[k];
    }
  }

  const Messages<T> &messages_;
  const MessageGradients<T> &to_;
  int64_t num_columns_, width_, at_once_;
  const int64_t *offsets_, *order_;  // messages of each column, ascending
  std::vector<int64_t> starts_;      // first centre of each block
  at::Tensor sums_;                  // (blocks at once, R, 2 C)
};

}  // namespace uip
