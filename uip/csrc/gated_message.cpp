// Gated messages of CHGNet (uip/nn/mlp.py) for inference, as ops:
//
//     gated_message   total_m = first[row_m] + second[column_m] (+ third[slot_m]) + inputs(x_m) W or table(x_m),
//                     message_m = G(total_m) * factor, summed by row, or by itself (message_kernels.h: MessageKind)
//     packed_linear   x W + b
//
// Only arguments are kept; what lies between is computed again for the gradient. Weights are constants: asking for
// their derivatives, or for second ones, is an error. Results do not depend on the number of threads: a thread owns the
// rows it sums to, and neighbours collect their gradients in the order of edges.
#include "gated_message.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <cstdlib>
#include <string>
#include <tuple>
#include <vector>

#include "find_op.h"
#include "flush_denormals.h"

namespace uip {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Six = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

constexpr int64_t centres_per_task = 8, rows_per_task = 96;

// What the arguments of one call are, as pointers; tensors are contiguous and outlive it.
template <typename T>
const T *values(const Tensor &x) {
  return x.numel() ? x.const_data_ptr<T>() : nullptr;
}

template <typename T>
MessageWeights<T> weights_of(at::TensorList w, bool tabulated) {
  MessageWeights<T> weights;
  const T **places[] = {&weights.input,       &weights.input_back, &weights.core_scale, &weights.core_shift,
                        &weights.gate_scale,  &weights.gate_shift, &weights.core,       &weights.core_bias,
                        &weights.gate,        &weights.gate_bias,  &weights.core_back,  &weights.gate_back,
                        &weights.frequencies, &weights.factor};
  for (size_t k = 0; k < w.size(); ++k) *places[k] = values<T>(w[k]);
  if (tabulated) {
    weights.table = weights.input;
    weights.knots = w[0].size(0);
  }
  return weights;
}

struct Arguments {
  MessageKind kind;
  bool norm, tabulated;
  int64_t num_radial;
  Tensor x, scale, first, second, third, factor;
  std::vector<Tensor> lists, weights;

  int64_t channels() const { return first.size(1) / 2; }
  int64_t num_messages() const { return x.size(0); }
  int64_t num_centres() const { return lists[3].size(0) - 1; }
};

void check(const Arguments &a) {
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

Arguments contiguous(int64_t kind, bool norm, bool tabulated, int64_t num_radial, const Tensor &x, const Tensor &scale,
                     const Tensor &first, const Tensor &second, const Tensor &third, const Tensor &factor,
                     at::TensorList lists, at::TensorList weights) {
  Arguments a{MessageKind{kind},
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
  check(a);
  return a;
}

template <typename T>
Messages<T> messages_of(const Arguments &a) {
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
          weights_of<T>(a.weights, a.tabulated)};
}

bool is_summed(MessageKind kind) { return kind == MessageKind::edges || kind == MessageKind::bonds; }

template <typename T>
Tensor forward(const Arguments &a) {
  const auto messages = messages_of<T>(a);
  const std::array<int64_t, 2> shape{is_summed(a.kind) ? a.first.size(0) : a.num_messages(), a.channels()};
  Tensor out = is_summed(a.kind) ? at::zeros(shape, a.first.options()) : at::empty(shape, a.first.options());
  if (a.num_messages() == 0) return out;
  T *place = out.mutable_data_ptr<T>();
  const auto run = message_kernels<T>(a.channels()).forward;
  at::parallel_for(0, a.num_centres(), centres_per_task,
                   [&](int64_t begin, int64_t end) { run(messages, place, begin, end); });
  return out;
}

// Rows of `total` (M, W) to the columns they belong to, (R, W): each in the order of messages.
template <typename T>
void collect(const Tensor &total, const Arguments &a, Tensor &out) {
  const int64_t width = total.size(1);
  const T *from = values<T>(total);
  const int64_t *offsets = values<int64_t>(a.lists[4]), *order = values<int64_t>(a.lists[5]);
  T *to = out.mutable_data_ptr<T>();
  at::parallel_for(0, out.size(0), centres_per_task, [&](int64_t begin, int64_t end) {
    const FlushDenormals flush;
    for (int64_t column = begin; column < end; ++column) {
      T *__restrict sum = to + column * width;
      for (int64_t k = offsets[column]; k < offsets[column + 1]; ++k) {
        const T *__restrict row = from + order[k] * width;
        for (int64_t c = 0; c < width; ++c) sum[c] += row[c];
      }
    }
  });
}

template <typename T>
Six backward(const Tensor &gradient, const Arguments &a) {
  const auto messages = messages_of<T>(a);
  const auto upstream = gradient.contiguous();
  std::array<Tensor, 6> found;
  const std::array<Tensor, 6> inputs{a.x, a.scale, a.first, a.second, a.third, a.factor};
  for (size_t k = 0; k < inputs.size(); ++k) found[k] = k < 2 ? at::empty_like(inputs[k]) : at::zeros_like(inputs[k]);
  if (a.num_messages() == 0) return std::tuple_cat(found);
  // edges of several threads end at the same neighbour
  const bool apart = from_distance(a.kind) && at::get_num_threads() > 1 && a.num_centres() > centres_per_task;
  Tensor total = apart ? at::empty({a.num_messages(), 2 * a.channels()}, a.first.options()) : Tensor();
  MessageGradients<T> to{values<T>(upstream), nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
  T **places[] = {&to.x, &to.scale, &to.first, &to.second, &to.third, &to.factor};
  for (size_t k = 0; k < found.size(); ++k) *places[k] = found[k].numel() ? found[k].mutable_data_ptr<T>() : nullptr;
  if (apart) to.total = total.mutable_data_ptr<T>();
  const auto run = message_kernels<T>(a.channels()).backward;
  at::parallel_for(0, a.num_centres(), centres_per_task,
                   [&](int64_t begin, int64_t end) { run(messages, to, begin, end); });
  if (apart) collect<T>(total, a, found[3]);
  return std::tuple_cat(found);
}

Tensor gated_message(int64_t kind, bool norm, bool tabulated, int64_t num_radial, const Tensor &x, const Tensor &scale,
                     const Tensor &first, const Tensor &second, const Tensor &third, const Tensor &factor,
                     at::TensorList lists, at::TensorList weights) {
  const auto a = contiguous(kind, norm, tabulated, num_radial, x, scale, first, second, third, factor, lists, weights);
  return first.scalar_type() == at::kDouble ? forward<double>(a) : forward<float>(a);
}

Six gated_message_backward(const Tensor &gradient, int64_t kind, bool norm, bool tabulated, int64_t num_radial,
                           const Tensor &x, const Tensor &scale, const Tensor &first, const Tensor &second,
                           const Tensor &third, const Tensor &factor, at::TensorList lists, at::TensorList weights) {
  const auto a = contiguous(kind, norm, tabulated, num_radial, x, scale, first, second, third, factor, lists, weights);
  return first.scalar_type() == at::kDouble ? backward<double>(gradient, a) : backward<float>(gradient, a);
}

template <typename T>
Tensor product(const Tensor &x, const Tensor &panels, const Tensor &bias, int64_t outputs) {
  Tensor out = at::empty({x.size(0), outputs}, x.options());
  const T *from = values<T>(x), *right = values<T>(panels), *start = values<T>(bias);
  T *to = out.numel() ? out.mutable_data_ptr<T>() : nullptr;
  const auto run = message_kernels<T>(outputs).dense;
  at::parallel_for(0, x.size(0), rows_per_task,
                   [&](int64_t begin, int64_t end) { run(from, right, start, to, x.size(1), outputs, begin, end); });
  return out;
}

Tensor packed_product(const Tensor &x, const Tensor &panels, const Tensor &bias, int64_t outputs) {
  TORCH_CHECK(outputs % 8 == 0, "packed_linear must have a multiple of 8 outputs, got ", outputs);
  TORCH_CHECK(x.dim() == 2 && panels.dim() == 3 && panels.size(1) == x.size(1) && panels.is_contiguous() &&
                  panels.size(0) * panels.size(2) >= outputs && bias.is_contiguous(),
              "packed_linear must have x (rows, K) and panels (N / L, K, L), got ", x.sizes(), " and ", panels.sizes());
  TORCH_CHECK(x.scalar_type() == panels.scalar_type() && x.scalar_type() == bias.scalar_type(),
              "packed_linear must have one dtype, got ", x.scalar_type(), " and ", panels.scalar_type());
  const auto rows = x.contiguous();
  return x.scalar_type() == at::kDouble ? product<double>(rows, panels, bias, outputs)
                                        : product<float>(rows, panels, bias, outputs);
}

/// weights: panels of W and of its transpose, bias (N) or (0).
Tensor packed_linear(const Tensor &x, at::TensorList weights, int64_t outputs) {
  return packed_product(x, weights[0], weights[2], outputs);
}

Tensor packed_linear_backward(const Tensor &gradient, at::TensorList weights, int64_t inputs) {
  return packed_product(gradient, weights[1], at::empty({0}, gradient.options()), inputs);
}

Tensor new_like(const Tensor &x) { return x.new_empty_symint(x.sym_sizes()); }

Tensor gated_message_meta(int64_t kind, bool, bool, int64_t, const Tensor &x, const Tensor &, const Tensor &first,
                          const Tensor &, const Tensor &, const Tensor &, at::TensorList, at::TensorList) {
  const auto rows = is_summed(MessageKind{kind}) ? first.sym_size(0) : x.sym_size(0);
  return first.new_empty_symint({rows, first.sym_size(1) / 2});
}

Six gated_message_backward_meta(const Tensor &, int64_t, bool, bool, int64_t, const Tensor &x, const Tensor &scale,
                                const Tensor &first, const Tensor &second, const Tensor &third, const Tensor &factor,
                                at::TensorList, at::TensorList) {
  return {new_like(x), new_like(scale), new_like(first), new_like(second), new_like(third), new_like(factor)};
}

Tensor packed_linear_meta(const Tensor &x, at::TensorList, int64_t outputs) {
  return x.new_empty_symint({x.sym_size(0), c10::SymInt(outputs)});
}

Tensor packed_linear_backward_meta(const Tensor &gradient, at::TensorList weights, int64_t inputs) {
  return packed_linear_meta(gradient, weights, inputs);
}

void check_constant(at::TensorList weights) {
  if (!at::GradMode::is_enabled()) return;
  for (const auto &weight : weights) {
    TORCH_CHECK(!weight.requires_grad(),
                "weights must be constants here (requires_grad_(False)): fused messages have derivatives with respect "
                "to geometry and features alone");
  }
}

class GatedMessage : public torch::autograd::Function<GatedMessage> {
 public:
  static Tensor forward(AutogradContext *context, int64_t kind, bool norm, bool tabulated, int64_t num_radial,
                        const Tensor &x, const Tensor &scale, const Tensor &first, const Tensor &second,
                        const Tensor &third, const Tensor &factor, const std::vector<Tensor> &lists,
                        const std::vector<Tensor> &weights) {
    static const auto op = find_op<decltype(gated_message)>("uip::gated_message");
    variable_list saved{x, scale, first, second, third, factor};
    saved.insert(saved.end(), lists.begin(), lists.end());
    saved.insert(saved.end(), weights.begin(), weights.end());
    context->save_for_backward(saved);
    context->saved_data["kind"] = kind;
    context->saved_data["norm"] = norm;
    context->saved_data["tabulated"] = tabulated;
    context->saved_data["num_radial"] = num_radial;
    at::AutoDispatchBelowADInplaceOrView below;
    return op.call(kind, norm, tabulated, num_radial, x, scale, first, second, third, factor, lists, weights);
  }

  static variable_list backward(AutogradContext *context, const variable_list &gradients) {
    static const auto op = find_op<decltype(gated_message_backward)>("uip::gated_message_backward");
    const auto s = context->get_saved_variables();
    const std::vector<Tensor> lists(s.begin() + 6, s.begin() + 12), weights(s.begin() + 12, s.end());
    const auto &data = context->saved_data;
    const auto [x, scale, first, second, third, factor] =
        op.call(gradients[0], data.at("kind").toInt(), data.at("norm").toBool(), data.at("tabulated").toBool(),
                data.at("num_radial").toInt(), s[0], s[1], s[2], s[3], s[4], s[5], lists, weights);
    variable_list result{Tensor(), Tensor(), Tensor(), Tensor(), x, scale, first, second, third, factor};
    result.resize(12);
    return result;
  }
};

class PackedLinear : public torch::autograd::Function<PackedLinear> {
 public:
  static Tensor forward(AutogradContext *context, const Tensor &x, const std::vector<Tensor> &weights,
                        int64_t outputs) {
    static const auto op = find_op<decltype(packed_linear)>("uip::packed_linear");
    context->save_for_backward(weights);
    context->saved_data["inputs"] = x.sym_size(1).guard_int(__FILE__, __LINE__);
    at::AutoDispatchBelowADInplaceOrView below;
    return op.call(x, weights, outputs);
  }

  static variable_list backward(AutogradContext *context, const variable_list &gradients) {
    static const auto op = find_op<decltype(packed_linear_backward)>("uip::packed_linear_backward");
    const auto weights = context->get_saved_variables();
    return {op.call(gradients[0], weights, context->saved_data["inputs"].toInt()), Tensor(), Tensor()};
  }
};

Tensor gated_message_autograd(int64_t kind, bool norm, bool tabulated, int64_t num_radial, const Tensor &x,
                              const Tensor &scale, const Tensor &first, const Tensor &second, const Tensor &third,
                              const Tensor &factor, at::TensorList lists, at::TensorList weights) {
  check_constant(weights);
  return GatedMessage::apply(kind, norm, tabulated, num_radial, x, scale, first, second, third, factor, lists.vec(),
                             weights.vec());
}

Tensor packed_linear_autograd(const Tensor &x, at::TensorList weights, int64_t outputs) {
  check_constant(weights);
  return PackedLinear::apply(x, weights.vec(), outputs);
}

TORCH_LIBRARY_FRAGMENT(uip, library) {
  library.def(
      "gated_message(int kind, bool norm, bool tabulated, int num_radial, Tensor x, Tensor scale, Tensor first, Tensor "
      "second, "
      "Tensor third, Tensor factor, Tensor[] lists, Tensor[] weights) -> Tensor");
  library.def(
      "gated_message_backward(Tensor gradient, int kind, bool norm, bool tabulated, int num_radial, Tensor x, Tensor "
      "scale, "
      "Tensor first, Tensor second, Tensor third, Tensor factor, Tensor[] lists, Tensor[] weights) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def("packed_linear(Tensor x, Tensor[] weights, int outputs) -> Tensor");
  library.def("packed_linear_backward(Tensor gradient, Tensor[] weights, int inputs) -> Tensor");
}

TORCH_LIBRARY_IMPL(uip, CPU, library) {
  library.impl("gated_message", &gated_message);
  library.impl("gated_message_backward", &gated_message_backward);
  library.impl("packed_linear", &packed_linear);
  library.impl("packed_linear_backward", &packed_linear_backward);
}

TORCH_LIBRARY_IMPL(uip, Meta, library) {
  library.impl("gated_message", &gated_message_meta);
  library.impl("gated_message_backward", &gated_message_backward_meta);
  library.impl("packed_linear", &packed_linear_meta);
  library.impl("packed_linear_backward", &packed_linear_backward_meta);
}

TORCH_LIBRARY_IMPL(uip, Autograd, library) {
  library.impl("gated_message", &gated_message_autograd);
  library.impl("packed_linear", &packed_linear_autograd);
  // a second derivative must be an error, never zero
  library.impl("gated_message_backward", torch::autograd::autogradNotImplementedFallback());
  library.impl("packed_linear_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace uip
