#include "attention_ranks.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <numeric>
#include <optional>
#include <utility>

#include "find_op.h"

namespace uip {
namespace {

using at::Tensor;

Tensor all_gathered(const Tensor &x, int64_t total) {
  static const auto op = find_op<Tensor(const Tensor &, const Tensor &)>("uip::all_gather");
  return op.call(x.contiguous(), at::empty({total, 0}, x.options()));
}

Tensor reduced(const Tensor &x, int64_t owned) {
  static const auto op = find_op<Tensor(const Tensor &, const Tensor &)>("uip::reduce_scatter");
  return op.call(x.contiguous(), at::empty({owned, 0}, x.options()));
}

Tensor shifted(const Tensor &x, int64_t num_rows) {
  static const auto op = find_op<Tensor(const Tensor &, int64_t)>("uip::ring_shift");
  return op.call(x.contiguous(), num_rows);
}

/// Columns of several tensors side by side, for one message.
Tensor packed(const std::vector<Tensor> &parts) {
  std::vector<Tensor> present;
  for (const auto &part : parts) {
    if (part.defined()) present.push_back(part);
  }
  return at::cat(present, 1);
}

Keys unpacked_keys(const Tensor &x, int64_t channels) {
  const int64_t rest = x.size(1) - 2 * channels;
  return {x.narrow(1, 0, channels), x.narrow(1, channels, channels), rest ? x.narrow(1, 2 * channels, rest) : Tensor()};
}

void add(BlockGradient &sum, const BlockGradient &part) {
  sum.q += part.q;
  if (!part.query_positions.defined()) return;
  sum.query_positions += part.query_positions;
  sum.strain += part.strain;
}

}  // namespace

Layout::Layout(const Tensor &x) {
  static const auto op = find_op<Tensor(const Tensor &)>("uip::rank_layout");
  const auto values = op.call(x);
  const int64_t *value = values.const_data_ptr<int64_t>();
  rank = value[0];
  ring = value[1] != 0;
  counts.assign(value + 2, value + values.size(0));
}

int64_t Layout::total() const { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }

Attended attend_ranks(const Attention &attention, const Tensor &q, const Keys &own, const Layout &layout) {
  auto block = packed({own.k, own.v, own.positions});
  if (!layout.ring) return attention.forward(q, unpacked_keys(all_gathered(block, layout.total()), q.size(1)));
  std::optional<Attended> sum;
  for (int64_t step = 0; step < layout.num_ranks(); ++step) {
    if (step > 0) block = shifted(block, layout.counts[layout.owner(step)]);
    if (block.size(0) == 0) continue;
    const auto part = attention.forward(q, unpacked_keys(block, q.size(1)));
    sum = sum ? merge(*sum, part) : part;
  }
  return sum ? *sum : attention.forward(q, own);
}

BlockGradient attend_ranks_backward(const Attention &attention, const Tensor &gradient, const Tensor &q,
                                    const Keys &own, const Attended &attended, const Layout &layout) {
  const int64_t channels = q.size(1);
  auto block = packed({own.k, own.v, own.positions});
  BlockGradient result;
  Tensor of_keys;
  if (!layout.ring) {
    const auto all = unpacked_keys(all_gathered(block, layout.total()), channels);
    result = attention.backward(gradient, q, all, attended);
    of_keys = reduced(packed({result.k, result.v, result.key_positions}), q.size(0));
  } else {
    for (int64_t step = 0; step < layout.num_ranks(); ++step) {
      const int64_t rows = layout.counts[layout.owner(step)];
      if (step > 0) {
        block = shifted(block, rows);
        of_keys = shifted(of_keys, rows);
      }
      auto part = attention.backward(gradient, q, unpacked_keys(block, channels), attended);
      const auto block_gradient = packed({part.k, part.v, part.key_positions});
      of_keys = step > 0 ? of_keys + block_gradient : block_gradient;
      if (step > 0) {
        add(result, part);
      } else {
        result = std::move(part);
      }
    }
    of_keys = shifted(of_keys, q.size(0));  // back to their owner
  }
  const auto own_gradient = unpacked_keys(of_keys, channels);
  result.k = own_gradient.k.contiguous();
  result.v = own_gradient.v.contiguous();
  if (own_gradient.positions.defined()) result.query_positions = result.query_positions + own_gradient.positions;
  return result;
}

}  // namespace uip
