// Runs the kernels of trained_kernels.h on tensors. Nothing of a message is kept: derivatives compute it again.
//
// Centres are cut into blocks whose number does not depend on that of threads. A block owns the rows that its messages
// are summed to; gradients of weights, and those of rows that other blocks reach too, are summed apart in each block
// and then in the order of blocks.
#include "trained_message.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "gated_message.h"
#include "numbers.h"
#include "recycled.h"

namespace uip {
namespace {

using at::Tensor;

constexpr int64_t messages_per_block = 1024, most_blocks = 8;

/// (K, N) to (N / L, K, L), L = 64 bytes; N is padded with zeros.
Tensor panels(const Tensor &matrix) {
  const int64_t width = 64 / static_cast<int64_t>(matrix.element_size()), columns = matrix.size(1);
  const Tensor padded = at::constant_pad_nd(matrix, {0, (width - columns % width) % width});
  return padded.reshape({matrix.size(0), -1, width}).transpose(0, 1).contiguous();
}

/// Messages as the kernels read them, with the packed weights they point to.
template <typename T>
class Packed {
 public:
  explicit Packed(const TrainedCall &call) : hidden_(call.arguments[at_matrices].size(0) > 0) {
    const auto &a = call.arguments;
    pack(a[at_input].t()), pack(a[at_input]);
    for (int64_t half = 0; hidden_ && half < 2; ++half) {
      pack(a[at_matrices][half].t()), pack(a[at_matrices][half]);
    }
    const auto weight = [&](size_t k) { return hidden_ || k < 2 ? values<T>(panels_[k]) : nullptr; };
    messages = {hidden_,
                call.norm,
                call.summed,
                call.channels(),
                a[at_x].size(1),
                a[at_input].size(0),
                values<T>(a[at_x]),
                values<T>(a[at_first]),
                values<T>(a[at_second]),
                values<T>(a[at_third]),
                values<T>(a[at_factor]),
                values<int64_t>(call.lists[0]),
                values<int64_t>(call.lists[1]),
                values<int64_t>(call.lists[2]),
                values<int64_t>(call.lists[3]),
                weight(0),
                weight(1),
                weight(2),
                weight(4),
                weight(3),
                weight(5),
                values<T>(a[at_vectors])};
  }

  const TrainedKernels<T> &kernels() const {
    return message_kernels<T>(std::gcd(messages.channels, messages.inputs)).trained;
  }

  TrainedMessages<T> messages;

 private:
  void pack(const Tensor &matrix) { panels_.push_back(panels(matrix)); }

  bool hidden_;
  std::vector<Tensor> panels_;  // of W, core and gate, each transposed and as it is
};

/// First centre of each block, and the number of centres.
std::vector<int64_t> block_starts(const TrainedCall &call) {
  const int64_t *begin = call.lists[3].const_data_ptr<int64_t>(), *end = begin + call.num_centres();
  const int64_t count = std::clamp<int64_t>(call.num_messages() / messages_per_block, 1, most_blocks);
  std::vector<int64_t> starts;
  for (int64_t block = 0; block <= count; ++block) {
    starts.push_back(std::lower_bound(begin, end, block * call.num_messages() / count) - begin);
  }
  return starts;
}

/// Room for the sums of one derivative: one for each block, or for all of them.
class Sums {
 public:
  Sums(const Tensor &total, int64_t blocks, bool apart) : total_(total) {
    if (!apart || blocks == 1 || total.numel() == 0) return;
    auto sizes = total.sizes().vec();
    sizes.insert(sizes.begin(), blocks);
    parts_ = recycled_empty(sizes, total.options()).zero_();
  }

  template <typename T>
  T *of_block(int64_t block) const {
    return parts_.defined() ? parts_.mutable_data_ptr<T>() + block * total_.numel() : places<T>(total_);
  }

  /// Adds the parts, in their order.
  void finish() {
    for (int64_t block = 0; parts_.defined() && block < parts_.size(0); ++block) total_.add_(parts_[block]);
  }

 private:
  Tensor total_, parts_;
};

TrainedDerivatives room(const TrainedCall &call, const Wanted &wanted) {
  TrainedDerivatives found;
  for (size_t k = 0; k < num_trained; ++k) {
    const Tensor &like = call.arguments[k];
    if (!wanted[k]) {
      found.of_arguments[k] = at::empty({0}, like.options());
    } else if (k == at_x) {
      found.of_arguments[k] = recycled_empty(like.sizes(), like.options());
    } else {
      found.of_arguments[k] = at::zeros_like(like);
    }
  }
  return found;
}

/// `work(messages, results, begin, end)` on all blocks of centres.
template <typename T, typename Work>
void over_blocks(const TrainedCall &call, const Packed<T> &packed, TrainedResults<T> to,
                 const std::array<Tensor, num_trained> &found, const Work &work) {
  const auto starts = block_starts(call);
  const auto count = static_cast<int64_t>(starts.size()) - 1;
  const bool reached_by_others = call.lists[4].numel() > 0;
  Sums second(found[at_second], count, reached_by_others), input(found[at_input], count, true),
      matrices(found[at_matrices], count, true), vectors(found[at_vectors], count, true);
  to.x = places<T>(found[at_x]), to.first = places<T>(found[at_first]), to.third = places<T>(found[at_third]);
  to.factor = places<T>(found[at_factor]);
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      auto own = to;
      own.second = second.of_block<T>(block), own.input = input.of_block<T>(block);
      own.matrices = matrices.of_block<T>(block), own.vectors = vectors.of_block<T>(block);
      work(packed.messages, own, starts[block], starts[block + 1]);
    }
  });
  for (auto *sums : {&second, &input, &matrices, &vectors}) sums->finish();
}

/// Gradients of weights are summed together.
Wanted with_all_weights(Wanted wanted) {
  const bool any = wanted[at_input] || wanted[at_matrices] || wanted[at_vectors];
  wanted[at_input] = wanted[at_matrices] = wanted[at_vectors] = any;
  return wanted;
}

Tensor zero_values(const TrainedCall &call) {
  const Tensor &first = call.arguments[at_first];
  return at::zeros({call.summed ? first.size(0) : call.num_messages(), call.channels()}, first.options());
}

template <typename T>
Tensor values_of(const TrainedCall &call) {
  Tensor out = zero_values(call);
  if (call.num_messages() == 0) return out;
  const Packed<T> packed(call);
  T *place = out.mutable_data_ptr<T>();
  at::parallel_for(0, call.num_centres(), centres_per_task,
                   [&](int64_t begin, int64_t end) { packed.kernels().forward(packed.messages, place, begin, end); });
  return out;
}

template <typename T>
TrainedDerivatives gradients_of(const TrainedCall &call, const Tensor &gradient, const Wanted &wanted) {
  auto found = room(call, with_all_weights(wanted));
  if (call.num_messages() == 0) return found;
  const Packed<T> packed(call);
  TrainedResults<T> to{};
  const Tensor upstream = gradient.contiguous();
  to.gradient = values<T>(upstream);
  over_blocks<T>(call, packed, to, found.of_arguments, packed.kernels().gradient);
  return found;
}

template <typename T>
TrainedDerivatives second_of(const TrainedCall &call, const Tensor &gradient, at::TensorList directions,
                             const Wanted &wanted) {
  auto found = room(call, with_all_weights(wanted));
  found.tangent = zero_values(call);
  if (call.num_messages() == 0) return found;
  const Packed<T> packed(call);
  std::array<Tensor, num_directions> u;
  for (size_t k = 0; k < num_directions; ++k) u[k] = directions[k].defined() ? directions[k].contiguous() : Tensor();
  const Directions<T> along{values<T>(u[0]), values<T>(u[1]), values<T>(u[2]), values<T>(u[3]), values<T>(u[4])};
  TrainedResults<T> to{};
  const Tensor upstream = gradient.contiguous();
  to.gradient = values<T>(upstream), to.tangent = places<T>(found.tangent);
  over_blocks<T>(call, packed, to, found.of_arguments,
                 [&](const auto &messages, const auto &own, int64_t begin, int64_t end) {
                   packed.kernels().second(messages, along, own, begin, end);
                 });
  return found;
}

}  // namespace

TrainedCall::TrainedCall(at::TensorList given, at::TensorList index_lists, bool with_norm, bool sum)
    : norm(with_norm), summed(sum) {
  for (size_t k = 0; k < num_trained; ++k) arguments[k] = given[k].contiguous();
  for (const auto &list : index_lists) lists.push_back(list.contiguous());
  const auto &a = arguments;
  const auto type = a[at_first].scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kDouble, "trained_message must have float32 or float64, got ", type);
  for (const auto &argument : a) {
    TORCH_CHECK(argument.scalar_type() == type, "trained_message must have one dtype, got ", type, " and ",
                argument.scalar_type());
  }
  const int64_t c = channels(), inputs = a[at_x].size(1), outputs = a[at_input].size(0);
  TORCH_CHECK(c % 8 == 0 && inputs % 8 == 0, "trained_message must have multiples of 8 channels and inputs, got ", c,
              " and ", inputs);
  const bool from_inputs = outputs == 3 * c, hidden = a[at_matrices].size(0) > 0;
  TORCH_CHECK(a[at_input].size(1) == inputs && (from_inputs || outputs == 2 * c),
              "trained_message must have W (2 C or 3 C, K) with C = ", c, " and K = ", inputs, ", got ",
              a[at_input].sizes());
  TORCH_CHECK(!from_inputs || (hidden && a[at_factor].numel() == 0),
              "trained_message must have a second layer, and no other factor, where W (3 C, K) gives the factor");
  TORCH_CHECK(a[at_vectors].numel() == 6 * c && (!hidden || a[at_matrices].numel() == 2 * c * c),
              "trained_message must have matrices (2, C, C) and vectors (2, 3, C) with C = ", c, ", got ",
              a[at_matrices].sizes(), " and ", a[at_vectors].sizes());
  TORCH_CHECK(lists.size() == 6 && lists[0].size(0) == num_messages() && lists[1].size(0) == num_messages(),
              "trained_message must have six lists, with a row and a column for each of ", num_messages(), " messages");
  TORCH_CHECK(a[at_factor].numel() == 0 || lists[4].numel() == 0,
              "trained_message must have the factor of a column only where columns belong to one centre");
}

Tensor trained_values(const TrainedCall &call) {
  return call.arguments[0].scalar_type() == at::kDouble ? values_of<double>(call) : values_of<float>(call);
}

TrainedDerivatives trained_gradients(const TrainedCall &call, const Tensor &gradient, const Wanted &wanted) {
  const bool is_double = call.arguments[0].scalar_type() == at::kDouble;
  return is_double ? gradients_of<double>(call, gradient, wanted) : gradients_of<float>(call, gradient, wanted);
}

TrainedDerivatives trained_second(const TrainedCall &call, const Tensor &gradient, at::TensorList directions,
                                  const Wanted &wanted) {
  const bool is_double = call.arguments[0].scalar_type() == at::kDouble;
  return is_double ? second_of<double>(call, gradient, directions, wanted)
                   : second_of<float>(call, gradient, directions, wanted);
}

}  // namespace uip
