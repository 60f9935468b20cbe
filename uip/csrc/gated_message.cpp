// Gated messages of CHGNet (uip/nn/mlp.py) for inference, as ops:
//
//     total_m = first[row_m] + second[column_m] (+ third[slot_m]) + inputs(x_m) W or table(x_m),
//     message_m = G(total_m) * factor, summed by row, or by itself (message_kernels.h: MessageKind)
//
// For the gradient, arguments are kept, and for the first messages (`most_kept`) what enters the gate; the rest is
// computed again. Weights are constants: asking for their derivatives, or for second ones, is an error. Results do not
// depend on the number of threads: a thread owns the rows it sums to, and gradients of neighbours are summed in
// blocks of edges whose number does not depend on it (edge_blocks.h).
#include "gated_message.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>
#include <tuple>
#include <vector>

#include "edge_blocks.h"
#include "find_op.h"
#include "flush_denormals.h"
#include "numbers.h"
#include "recycled.h"
#include "symbolic_sizes.h"

namespace uip {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Two = std::tuple<Tensor, Tensor>;
using Six = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

/// Bytes of one call that are kept for its gradient: reading them takes less time than the product that gives them.
constexpr int64_t most_kept = 48 << 20;

template <typename T>
MessageWeights<T> weights_of(at::TensorList w, bool tabulated) {
  MessageWeights<T> weights;
  const T **targets[] = {&weights.input,       &weights.input_back, &weights.core_scale, &weights.core_shift,
                         &weights.gate_scale,  &weights.gate_shift, &weights.core,       &weights.core_bias,
                         &weights.gate,        &weights.gate_bias,  &weights.core_back,  &weights.gate_back,
                         &weights.frequencies, &weights.factor};
  for (size_t k = 0; k < w.size(); ++k) *targets[k] = values<T>(w[k]);
  if (tabulated) {
    weights.table = weights.input;
    weights.knots = w[0].size(0);
  }
  return weights;
}

/// How many of the messages are kept; none where they come from a table, which is as fast as memory.
template <typename Int>
Int num_kept(MessageKind kind, bool tabulated, const Int &num_messages, int64_t channels, size_t itemsize) {
  if (kind == MessageKind::angles && tabulated) return Int(0);
  return std::min<Int>(num_messages, Int(most_kept / (2 * channels * static_cast<int64_t>(itemsize))));
}

struct MessageArguments {
  MessageKind kind;
  bool norm, tabulated;
  int64_t num_radial;
  Tensor x, scale, first, second, third, factor;
  std::vector<Tensor> lists, weights;

  int64_t channels() const { return first.size(1) / 2; }
  int64_t num_messages() const { return x.size(0); }
  int64_t num_centres() const { return lists[3].size(0) - 1; }
  int64_t most_hidden() const {
    return num_kept<int64_t>(kind, tabulated, num_messages(), channels(), first.element_size());
  }
};

void check_message(const MessageArguments &a) {
  const size_t num_weights = !is_hidden(a.kind) ? 6 : from_distance(a.kind) && !a.tabulated ? 14 : 12;
  TORCH_CHECK(a.weights.size() == num_weights && a.lists.size() == 6, "gated_message must have 6 lists and ",
              num_weights, " weights, got ", a.lists.size(), " and ", a.weights.size());
  TORCH_CHECK(a.channels() % 8 == 0, "gated_message must have a multiple of 8 channels, got ", a.channels());
  const auto &table = a.weights[0];
  TORCH_CHECK(!a.tabulated || (a.x.dim() == 1 && table.dim() == 3 && table.size(0) > 1 && table.size(1) == table_rows &&
                               table.size(2) == table_columns(a.kind, a.channels())),
              "gated_message must have numbers x (M) and a table (knots, 4, ", table_columns(a.kind, a.channels()),
              "), got ", a.x.sizes(), " and ", table.sizes());
  const auto type = a.first.scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kDouble, "gated_message must have float32 or float64, got ", type);
  for (const auto &t : {a.x, a.scale, a.second, a.third, a.factor}) {
    TORCH_CHECK(t.scalar_type() == type, "gated_message must have one dtype, got ", type, " and ", t.scalar_type());
  }
  for (const auto &w : a.weights) {
    TORCH_CHECK(w.scalar_type() == type, "weights of gated_message must be ", type, ", got ", w.scalar_type());
  }
  TORCH_CHECK(a.lists[0].size(0) == a.num_messages() && a.lists[1].size(0) == a.num_messages(),
              "gated_message must have rows and columns for ", a.num_messages(), " messages, got ", a.lists[0].size(0),
              " and ", a.lists[1].size(0));
}

MessageArguments contiguous(int64_t kind, bool norm, bool tabulated, int64_t num_radial, const Tensor &x,
                            const Tensor &scale, const Tensor &first, const Tensor &second, const Tensor &third,
                            const Tensor &factor, at::TensorList lists, at::TensorList weights) {
  MessageArguments a{MessageKind{kind},
                     norm,
                     tabulated,
                     num_radial,
                     x.contiguous(),
                     scale.contiguous(),
                     first.contiguous(),
                     second.contiguous(),
                     third.contiguous(),
                     factor.contiguous(),
                     {},
                     {}};
  for (const auto &list : lists) a.lists.push_back(list.contiguous());
  for (const auto &weight : weights) a.weights.push_back(weight.contiguous());
  check_message(a);
  return a;
}

template <typename T>
Messages<T> messages_of(const MessageArguments &a, const Tensor &hidden) {
  const bool radial = from_distance(a.kind) && !a.tabulated;
  return {a.kind,
          a.norm,
          a.channels(),
          radial ? a.weights[12].size(0) : a.channels(),
          a.num_radial,
          values<T>(a.x),
          values<T>(a.scale),
          values<T>(a.first),
          values<T>(a.second),
          values<T>(a.third),
          values<T>(a.factor),
          values<int64_t>(a.lists[0]),
          values<int64_t>(a.lists[1]),
          a.third.numel() ? values<int64_t>(a.lists[2]) : nullptr,
          values<int64_t>(a.lists[3]),
          hidden.numel() ? const_cast<T *>(values<T>(hidden)) : nullptr,  // `forward` alone writes
          hidden.size(0),
          weights_of<T>(a.weights, a.tabulated)};
}

bool is_summed(MessageKind kind) { return kind == MessageKind::edges || kind == MessageKind::bonds; }

template <typename T>
Tensor forward(const MessageArguments &a, const Tensor &hidden) {
  const auto messages = messages_of<T>(a, hidden);
  const std::array<int64_t, 2> shape{is_summed(a.kind) ? a.first.size(0) : a.num_messages(), a.channels()};
  Tensor out = is_summed(a.kind) ? at::zeros(shape, a.first.options()) : recycled_empty(shape, a.first.options());
  if (a.num_messages() == 0) return out;
  T *place = out.mutable_data_ptr<T>();
  const auto run = message_kernels<T>(a.channels()).forward;
  at::parallel_for(0, a.num_centres(), centres_per_task,
                   [&](int64_t begin, int64_t end) { run(messages, place, begin, end); });
  return out;
}

template <typename T>
Six backward(const Tensor &gradient, const Tensor &hidden, const MessageArguments &a) {
  TORCH_CHECK(hidden.is_contiguous() && hidden.size(0) <= a.num_messages() && hidden.size(1) == 2 * a.channels(),
              "gated_message_backward must have what gated_message_forward kept, (at most ", a.num_messages(), ", ",
              2 * a.channels(), "), got ", hidden.sizes());
  const auto messages = messages_of<T>(a, hidden);
  const auto upstream = gradient.contiguous();
  std::array<Tensor, 6> found;
  const std::array<Tensor, 6> inputs{a.x, a.scale, a.first, a.second, a.third, a.factor};
  for (size_t k = 0; k < inputs.size(); ++k) {
    found[k] = k < 2 ? recycled_empty(inputs[k].sizes(), inputs[k].options()) : at::zeros_like(inputs[k]);
  }
  if (a.num_messages() == 0) return std::tuple_cat(found);
  MessageGradients<T> to{values<T>(upstream), nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
  T **targets[] = {&to.x, &to.scale, &to.first, &to.second, &to.third, &to.factor};
  for (size_t k = 0; k < found.size(); ++k) *targets[k] = places<T>(found[k]);
  if (from_distance(a.kind)) {
    const auto *offsets = values<int64_t>(a.lists[4]), *order = values<int64_t>(a.lists[5]);
    EdgeBlocks<T>(messages, to, a.num_centres(), a.second, offsets, order).run();
  } else {
    const auto run = message_kernels<T>(a.channels()).backward;
    at::parallel_for(0, a.num_centres(), centres_per_task,
                     [&](int64_t begin, int64_t end) { run(messages, to, begin, end); });
  }
  return std::tuple_cat(found);
}

Tensor forward_of(const MessageArguments &a, const Tensor &hidden) {
  return a.first.scalar_type() == at::kDouble ? forward<double>(a, hidden) : forward<float>(a, hidden);
}

Tensor gated_message(int64_t kind, bool norm, bool tabulated, int64_t num_radial, const Tensor &x, const Tensor &scale,
                     const Tensor &first, const Tensor &second, const Tensor &third, const Tensor &factor,
                     at::TensorList lists, at::TensorList weights) {
  const auto a = contiguous(kind, norm, tabulated, num_radial, x, scale, first, second, third, factor, lists, weights);
  return forward_of(a, a.first.new_empty({0, 2 * a.channels()}));
}

/// The messages, and what enters the gate of the first of them, (K, 2 C), K <= M.
Two gated_message_forward(int64_t kind, bool norm, bool tabulated, int64_t num_radial, const Tensor &x,
                          const Tensor &scale, const Tensor &first, const Tensor &second, const Tensor &third,
                          const Tensor &factor, at::TensorList lists, at::TensorList weights) {
  const auto a = contiguous(kind, norm, tabulated, num_radial, x, scale, first, second, third, factor, lists, weights);
  const Tensor hidden = recycled_empty({a.most_hidden(), 2 * a.channels()}, a.first.options());
  return {forward_of(a, hidden), hidden};
}

Six gated_message_backward(const Tensor &gradient, const Tensor &hidden, int64_t kind, bool norm, bool tabulated,
                           int64_t num_radial, const Tensor &x, const Tensor &scale, const Tensor &first,
                           const Tensor &second, const Tensor &third, const Tensor &factor, at::TensorList lists,
                           at::TensorList weights) {
  const auto a = contiguous(kind, norm, tabulated, num_radial, x, scale, first, second, third, factor, lists, weights);
  return first.scalar_type() == at::kDouble ? backward<double>(gradient, hidden, a)
                                            : backward<float>(gradient, hidden, a);
}

Tensor gated_message_meta(int64_t kind, bool, bool, int64_t, const Tensor &x, const Tensor &, const Tensor &first,
                          const Tensor &, const Tensor &, const Tensor &, at::TensorList, at::TensorList) {
  const auto rows = is_summed(MessageKind{kind}) ? first.sym_size(0) : x.sym_size(0);
  return first.new_empty_symint({rows, first.sym_size(1) / 2});
}

Two gated_message_forward_meta(int64_t kind, bool norm, bool tabulated, int64_t num_radial, const Tensor &x,
                               const Tensor &scale, const Tensor &first, const Tensor &second, const Tensor &third,
                               const Tensor &factor, at::TensorList lists, at::TensorList weights) {
  const int64_t channels = first.sym_size(1).guard_int(__FILE__, __LINE__) / 2;
  const auto kept = num_kept(MessageKind{kind}, tabulated, x.sym_size(0), channels, first.element_size());
  return {gated_message_meta(kind, norm, tabulated, num_radial, x, scale, first, second, third, factor, lists, weights),
          first.new_empty_symint({kept, c10::SymInt(2 * channels)})};
}

Six gated_message_backward_meta(const Tensor &, const Tensor &, int64_t, bool, bool, int64_t, const Tensor &x,
                                const Tensor &scale, const Tensor &first, const Tensor &second, const Tensor &third,
                                const Tensor &factor, at::TensorList, at::TensorList) {
  return {new_like(x), new_like(scale), new_like(first), new_like(second), new_like(third), new_like(factor)};
}

class GatedMessage : public torch::autograd::Function<GatedMessage> {
 public:
  static Tensor forward(AutogradContext *context, int64_t kind, bool norm, bool tabulated, int64_t num_radial,
                        const Tensor &x, const Tensor &scale, const Tensor &first, const Tensor &second,
                        const Tensor &third, const Tensor &factor, const std::vector<Tensor> &lists,
                        const std::vector<Tensor> &weights) {
    static const auto op = find_op<decltype(gated_message_forward)>("uip::gated_message_forward");
    at::AutoDispatchBelowADInplaceOrView below;
    const auto [messages, hidden] =
        op.call(kind, norm, tabulated, num_radial, x, scale, first, second, third, factor, lists, weights);
    variable_list saved{hidden, x, scale, first, second, third, factor};
    saved.insert(saved.end(), lists.begin(), lists.end());
    saved.insert(saved.end(), weights.begin(), weights.end());
    context->save_for_backward(saved);
    context->saved_data["kind"] = kind;
    context->saved_data["norm"] = norm;
    context->saved_data["tabulated"] = tabulated;
    context->saved_data["num_radial"] = num_radial;
    return messages;
  }

  static variable_list backward(AutogradContext *context, const variable_list &gradients) {
    static const auto op = find_op<decltype(gated_message_backward)>("uip::gated_message_backward");
    const auto s = context->get_saved_variables();
    const std::vector<Tensor> lists(s.begin() + 7, s.begin() + 13), weights(s.begin() + 13, s.end());
    const auto &data = context->saved_data;
    const auto [x, scale, first, second, third, factor] =
        op.call(gradients[0], s[0], data.at("kind").toInt(), data.at("norm").toBool(), data.at("tabulated").toBool(),
                data.at("num_radial").toInt(), s[1], s[2], s[3], s[4], s[5], s[6], lists, weights);
    variable_list result{Tensor(), Tensor(), Tensor(), Tensor(), x, scale, first, second, third, factor};
    result.resize(12);
    return result;
  }
};

Tensor gated_message_autograd(int64_t kind, bool norm, bool tabulated, int64_t num_radial, const Tensor &x,
                              const Tensor &scale, const Tensor &first, const Tensor &second, const Tensor &third,
                              const Tensor &factor, at::TensorList lists, at::TensorList weights) {
  check_constant(weights);
  bool wanted = false;
  for (const auto &t : {x, scale, first, second, third, factor}) wanted = wanted || t.requires_grad();
  if (!wanted || !at::GradMode::is_enabled()) {
    static const auto op = find_op<decltype(gated_message)>("uip::gated_message");
    at::AutoDispatchBelowADInplaceOrView below;
    return op.call(kind, norm, tabulated, num_radial, x, scale, first, second, third, factor, lists, weights);
  }
  return GatedMessage::apply(kind, norm, tabulated, num_radial, x, scale, first, second, third, factor, lists.vec(),
                             weights.vec());
}

#define UIP_MESSAGE                                                                                                   \
  "int kind, bool norm, bool tabulated, int num_radial, Tensor x, Tensor scale, Tensor first, Tensor second, Tensor " \
  "third, Tensor factor, Tensor[] lists, Tensor[] weights)"

TORCH_LIBRARY_FRAGMENT(uip, library) {
  library.def("gated_message(" UIP_MESSAGE " -> Tensor");
  library.def("gated_message_forward(" UIP_MESSAGE " -> (Tensor, Tensor)");
  library.def("gated_message_backward(Tensor gradient, Tensor hidden, " UIP_MESSAGE
              " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

#undef UIP_MESSAGE

TORCH_LIBRARY_IMPL(uip, CPU, library) {
  library.impl("gated_message", &gated_message);
  library.impl("gated_message_forward", &gated_message_forward);
  library.impl("gated_message_backward", &gated_message_backward);
}

TORCH_LIBRARY_IMPL(uip, Meta, library) {
  library.impl("gated_message", &gated_message_meta);
  library.impl("gated_message_forward", &gated_message_forward_meta);
  library.impl("gated_message_backward", &gated_message_backward_meta);
}

TORCH_LIBRARY_IMPL(uip, Autograd, library) {
  library.impl("gated_message", &gated_message_autograd);
  // a second derivative must be an error, never zero
  library.impl("gated_message_forward", torch::autograd::autogradNotImplementedFallback());
  library.impl("gated_message_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace uip
