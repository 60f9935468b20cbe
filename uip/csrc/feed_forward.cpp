#include "feed_forward.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>

#include <algorithm>

namespace uip {

using at::Tensor;

int64_t tokens_of_tile(const Tensor &x) { return x.is_cpu() ? 512 * std::max(at::get_num_threads(), 1) : 1 << 16; }

FeedForward::FeedForward(const FeedForwardWeights &w, at::ScalarType type)
    : first_(w.first * w.norm, w.first_bias, type),
      second_(w.second * w.scale, w.second_bias * w.scale, type),
      hidden_(w.first.size(0)),
      type_(type) {}

FeedForward::Result FeedForward::forward(const Tensor &x, bool keep) const {
  Result result{at::empty_like(x), x.new_empty({keep ? x.size(0) : 0, hidden_}, x.options().dtype(type_))};
  const int64_t step = tokens_of_tile(x);
  for (int64_t start = 0; start < x.size(0); start += step) {
    const int64_t count = std::min(step, x.size(0) - start);
    const auto part = x.narrow(0, start, count);
    const auto hidden =
        keep ? result.kept.narrow(0, start, count) : x.new_empty({count, hidden_}, result.kept.options());
    first_.into(hidden, Normed(part).values());
    auto out = result.y.narrow(0, start, count);
    at::add_out(out, part, second_(at::gelu(hidden)));
  }
  return result;
}

Tensor FeedForward::backward(const Tensor &gradient, const Tensor &x, const Tensor &kept) const {
  auto result = at::empty_like(x);
  const int64_t step = tokens_of_tile(x);
  for (int64_t start = 0; start < x.size(0); start += step) {
    const int64_t count = std::min(step, x.size(0) - start);
    const auto of_part = gradient.narrow(0, start, count);
    const Normed normed(x.narrow(0, start, count));
    const auto hidden = kept.size(0) > 0 ? kept.narrow(0, start, count) : first_(normed.values());
    const auto of_hidden = at::gelu_backward(second_.backward(of_part), hidden);
    auto out = result.narrow(0, start, count);
    at::add_out(out, of_part, normed.backward(first_.backward(of_hidden)));
  }
  return result;
}

}  // namespace uip
