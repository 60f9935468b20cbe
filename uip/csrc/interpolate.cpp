// interpolate: functions of one number from a table (message_kernels.h), x in knots. First derivatives by x alone.
#include <ATen/Dispatch.h>
#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "find_op.h"
#include "gated_message.h"

namespace uip {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t numbers_per_task = 256;

void check_table(const Tensor &x, const Tensor &table) {
  TORCH_CHECK(x.dim() == 1 && table.dim() == 3 && table.size(0) > 1 && table.size(1) == table_rows &&
                  table.size(2) % 8 == 0 && x.scalar_type() == table.scalar_type() && table.is_contiguous(),
              "interpolate must have x (M) and a table (knots, 4, W) of one dtype, W a multiple of 8, got ", x.sizes(),
              " and ", table.sizes());
}

template <typename T>
void fill(const Tensor &x, const Tensor &table, const T *gradient, Tensor &out) {
  if (x.numel() == 0) return;
  const int64_t width = table.size(2), knots = table.size(0);
  const auto &kernels = message_kernels<T>(width);
  const T *at = x.const_data_ptr<T>(), *rows = table.const_data_ptr<T>();
  T *to = out.mutable_data_ptr<T>();
  at::parallel_for(0, x.numel(), numbers_per_task, [&](int64_t begin, int64_t end) {
    if (gradient) {
      kernels.interpolate_back(at, rows, knots, width, gradient, to, begin, end);
    } else {
      kernels.interpolate(at, rows, knots, width, to, begin, end);
    }
  });
}

Tensor interpolate(const Tensor &x, const Tensor &table) {
  check_table(x, table);
  const auto at = x.contiguous();
  Tensor out = at::empty({x.numel(), table.size(2)}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "interpolate", [&] { fill<scalar_t>(at, table, nullptr, out); });
  return out;
}

Tensor interpolate_backward(const Tensor &gradient, const Tensor &x, const Tensor &table) {
  check_table(x, table);
  const auto at = x.contiguous(), upstream = gradient.contiguous();
  Tensor out = at::empty_like(at);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "interpolate_backward",
                             [&] { fill<scalar_t>(at, table, upstream.const_data_ptr<scalar_t>(), out); });
  return out;
}

Tensor interpolate_meta(const Tensor &x, const Tensor &table) {
  return x.new_empty_symint({x.sym_size(0), table.sym_size(2)});
}

Tensor interpolate_backward_meta(const Tensor &, const Tensor &x, const Tensor &) {
  return x.new_empty_symint(x.sym_sizes());
}

class Interpolate : public torch::autograd::Function<Interpolate> {
 public:
  static Tensor forward(AutogradContext *context, const Tensor &x, const Tensor &table) {
    static const auto op = find_op<decltype(interpolate)>("uip::interpolate");
    context->save_for_backward({x, table});
    at::AutoDispatchBelowADInplaceOrView below;
    return op.call(x, table);
  }

  static variable_list backward(AutogradContext *context, const variable_list &gradients) {
    static const auto op = find_op<decltype(interpolate_backward)>("uip::interpolate_backward");
    const auto saved = context->get_saved_variables();
    return {op.call(gradients[0], saved[0], saved[1]), Tensor()};
  }
};

Tensor interpolate_autograd(const Tensor &x, const Tensor &table) {
  TORCH_CHECK(!at::GradMode::is_enabled() || !table.requires_grad(),
              "a table must be a constant (requires_grad_(False)): interpolate has derivatives by x alone");
  return Interpolate::apply(x, table);
}

TORCH_LIBRARY_FRAGMENT(uip, library) {
  library.def("interpolate(Tensor x, Tensor table) -> Tensor");
  library.def("interpolate_backward(Tensor gradient, Tensor x, Tensor table) -> Tensor");
}

TORCH_LIBRARY_IMPL(uip, CPU, library) {
  library.impl("interpolate", &interpolate);
  library.impl("interpolate_backward", &interpolate_backward);
}

TORCH_LIBRARY_IMPL(uip, Meta, library) {
  library.impl("interpolate", &interpolate_meta);
  library.impl("interpolate_backward", &interpolate_backward_meta);
}

TORCH_LIBRARY_IMPL(uip, Autograd, library) {
  library.impl("interpolate", &interpolate_autograd);
  // a second derivative must be an error, never zero
  library.impl("interpolate_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace uip
