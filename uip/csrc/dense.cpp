#include "dense.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <limits>

namespace uip {

using at::Tensor;

at::ScalarType wide(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }

Dense::Dense(const Tensor &weight, const Tensor &bias, at::ScalarType type)
    : weight_(weight.to(type)), bias_(bias.to(type)) {}

Tensor Dense::operator()(const Tensor &x) const { return at::linear(x.to(weight_.scalar_type()), weight_, bias_); }

void Dense::into(Tensor out, const Tensor &x) const {
  at::addmm_out(out, bias_, x.to(weight_.scalar_type()), weight_.t());
}

Tensor Dense::backward(const Tensor &gradient) const { return at::matmul(gradient.to(weight_.scalar_type()), weight_); }

Dense Dense::outputs(int64_t start, int64_t count) const {
  return {weight_.narrow(0, start, count), bias_.narrow(0, start, count), weight_.scalar_type()};
}

Normed::Normed(const Tensor &x) {
  const bool is_double = x.scalar_type() == at::kDouble;
  const double epsilon = is_double ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
  inverse_ = x.square().mean(-1, true).add_(epsilon).rsqrt_();
  values_ = x * inverse_;
}

Tensor Normed::backward(const Tensor &gradient) const {
  const auto wide_gradient = gradient.to(values_.scalar_type());
  const auto along = (wide_gradient * values_).mean(-1, true);
  return at::addcmul(wide_gradient, values_, along, -1.0).mul_(inverse_);
}

}  // namespace uip
