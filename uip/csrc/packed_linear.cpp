// packed_linear: x W + b of rows, with W in panels (message_kernels.h). First derivatives by x alone.
#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <vector>

#include "find_op.h"
#include "gated_message.h"

namespace uip {

void check_constant(at::TensorList weights) {
  if (!at::GradMode::is_enabled()) return;
  for (const auto &weight : weights) {
    TORCH_CHECK(!weight.requires_grad(),
                "weights must be constants here (requires_grad_(False)): fused messages have derivatives with respect "
                "to geometry and features alone");
  }
}

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t rows_per_task = 96;

template <typename T>
Tensor product(const Tensor &x, const Tensor &panels, const Tensor &bias, int64_t outputs) {
  Tensor out = at::empty({x.size(0), outputs}, x.options());
  const T *from = x.const_data_ptr<T>(), *right = panels.const_data_ptr<T>(),
          *start = bias.numel() ? bias.const_data_ptr<T>() : nullptr;
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

Tensor packed_linear_meta(const Tensor &x, at::TensorList, int64_t outputs) {
  return x.new_empty_symint({x.sym_size(0), c10::SymInt(outputs)});
}

Tensor packed_linear_backward_meta(const Tensor &gradient, at::TensorList weights, int64_t inputs) {
  return packed_linear_meta(gradient, weights, inputs);
}

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

Tensor packed_linear_autograd(const Tensor &x, at::TensorList weights, int64_t outputs) {
  check_constant(weights);
  return PackedLinear::apply(x, weights.vec(), outputs);
}

TORCH_LIBRARY_FRAGMENT(uip, library) {
  library.def("packed_linear(Tensor x, Tensor[] weights, int outputs) -> Tensor");
  library.def("packed_linear_backward(Tensor gradient, Tensor[] weights, int inputs) -> Tensor");
}

TORCH_LIBRARY_IMPL(uip, CPU, library) {
  library.impl("packed_linear", &packed_linear);
  library.impl("packed_linear_backward", &packed_linear_backward);
}

TORCH_LIBRARY_IMPL(uip, Meta, library) {
  library.impl("packed_linear", &packed_linear_meta);
  library.impl("packed_linear_backward", &packed_linear_backward_meta);
}

TORCH_LIBRARY_IMPL(uip, Autograd, library) {
  library.impl("packed_linear", &packed_linear_autograd);
  // a second derivative must be an error, never zero
  library.impl("packed_linear_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace uip
