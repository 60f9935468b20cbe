// The layers of the tokens of AllScAIP as ops, with first derivatives with respect to tokens and geometry.
//
//     row_layer     (row_layer.h)        feed_forward     (feed_forward.h)
//
// For inference: weights are constants, and asking for their derivatives, or for second ones, is an error.
#include <ATen/Functions.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "feed_forward.h"
#include "find_op.h"
#include "fused_rows.h"
#include "named_results.h"
#include "row_layer.h"
#include "symbolic_sizes.h"

namespace uip {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Weights = std::vector<Tensor>;

// Results of the ops, fields in the order of the schemas. `kept`: what the derivative reads again, or no rows.

struct FeedForwardResult {
  Tensor y, kept;
  std::tuple<Tensor, Tensor> as_tuple() const { return {y, kept}; }
};

struct RowLayerResult {
  Tensor atoms, bonds, kept;
  std::tuple<Tensor, Tensor, Tensor> as_tuple() const { return {atoms, bonds, kept}; }
};

/// Gradients of the arguments of the same names.
struct RowLayerGradients {
  Tensor atoms, bonds, log_weight, direction;
  std::tuple<Tensor, Tensor, Tensor, Tensor> as_tuple() const { return {atoms, bonds, log_weight, direction}; }
};

/// Type of the products.
at::ScalarType product_type(const Tensor &x, bool bfloat16) {
  TORCH_CHECK(!bfloat16 || x.scalar_type() == at::kFloat, "with bfloat16, tokens must be float32, got ",
              x.scalar_type());
  return bfloat16 ? at::kBFloat16 : x.scalar_type();
}

FeedForward feed_forward_layer(const Tensor &x, at::TensorList w, bool bfloat16) {
  TORCH_CHECK(w.size() == 6, "feed_forward must have 6 weights, got ", w.size());
  return {{w[0], w[1], w[2], w[3], w[4], w[5]}, product_type(x, bfloat16)};
}

/// `work` with the layer: fused, where kernels have it, or in tiles of torch's operations.
template <typename Work>
auto with_attention_layer(const Tensor &x, at::TensorList w, int64_t heads, at::IntArrayRef degrees, bool only_atoms,
                          bool bfloat16, const Work &work) {
  TORCH_CHECK(w.size() == 6, "row_layer must have 6 weights, got ", w.size());
  const RowLayerWeights weights{w[0], w[1], w[2], w[3], w[4], w[5]};
  const auto type = product_type(x, bfloat16);
  if (has_fused_rows(x, type, only_atoms)) return work(FusedRows(weights, heads, degrees.vec(), only_atoms));
  return work(RowLayer(weights, heads, degrees.vec(), only_atoms, type));
}

FeedForwardResult feed_forward(const Tensor &x, at::TensorList weights, bool keep, bool bfloat16) {
  const auto result = feed_forward_layer(x, weights, bfloat16).forward(x, keep);
  return {result.y, result.kept};
}

Tensor feed_forward_backward(const Tensor &gradient, const Tensor &x, const Tensor &kept, at::TensorList weights,
                             bool bfloat16) {
  return feed_forward_layer(x, weights, bfloat16).backward(gradient, x, kept);
}

RowLayerResult row_layer(const Tensor &atoms, const Tensor &bonds, const Tensor &log_weight, const Tensor &direction,
                         const Tensor &bond_slots, at::TensorList weights, int64_t heads, at::IntArrayRef degrees,
                         bool only_atoms, bool keep, bool bfloat16) {
  const auto result =
      with_attention_layer(atoms, weights, heads, degrees, only_atoms, bfloat16, [&](const auto &layer) {
        return layer.forward({atoms, bonds, {}}, {log_weight, direction, bond_slots}, keep && !only_atoms);
      });
  return {result.atoms, result.bonds, result.kept};
}

RowLayerGradients row_layer_backward(const Tensor &atoms_gradient, const Tensor &bonds_gradient, const Tensor &atoms,
                                     const Tensor &bonds, const Tensor &kept, const Tensor &log_weight,
                                     const Tensor &direction, const Tensor &bond_slots, at::TensorList weights,
                                     int64_t heads, at::IntArrayRef degrees, bool only_atoms, bool bfloat16) {
  const Tokens gradient{atoms_gradient, bonds_gradient, {}};
  const auto result =
      with_attention_layer(atoms, weights, heads, degrees, only_atoms, bfloat16, [&](const auto &layer) {
        return layer.backward(gradient, {atoms, bonds, kept}, {log_weight, direction, bond_slots});
      });
  return {result.tokens.atoms, result.tokens.bonds, result.log_weight, result.direction};
}

FeedForwardResult feed_forward_meta(const Tensor &x, at::TensorList weights, bool keep, bool bfloat16) {
  const auto rows = keep ? x.sym_size(0) : c10::SymInt(0);
  const auto options = x.options().dtype(product_type(x, bfloat16));
  return {new_like(x), x.new_empty_symint({rows, weights[1].sym_size(0)}, options)};
}

Tensor feed_forward_backward_meta(const Tensor &, const Tensor &x, const Tensor &, at::TensorList, bool) {
  return new_like(x);
}

RowLayerResult row_layer_meta(const Tensor &atoms, const Tensor &bonds, const Tensor &, const Tensor &, const Tensor &,
                              at::TensorList, int64_t, at::IntArrayRef, bool only_atoms, bool keep, bool bfloat16) {
  const auto rows = keep && !only_atoms ? atoms.sym_size(0) + bonds.sym_size(0) : c10::SymInt(0);
  return {new_like(atoms), bonds.new_empty_symint({only_atoms ? c10::SymInt(0) : bonds.sym_size(0), bonds.sym_size(1)}),
          atoms.new_empty_symint({rows, 3 * atoms.sym_size(1)}, atoms.options().dtype(product_type(atoms, bfloat16)))};
}

RowLayerGradients row_layer_backward_meta(const Tensor &, const Tensor &, const Tensor &atoms, const Tensor &bonds,
                                          const Tensor &, const Tensor &log_weight, const Tensor &direction,
                                          const Tensor &, at::TensorList, int64_t, at::IntArrayRef, bool, bool) {
  return {new_like(atoms), new_like(bonds), new_like(log_weight), new_like(direction)};
}

void check_constant(const Weights &weights) {
  if (!at::GradMode::is_enabled()) return;
  for (const auto &weight : weights) {
    TORCH_CHECK(!weight.requires_grad(),
                "weights must be constants here (requires_grad_(False)): these layers have derivatives with respect to "
                "tokens alone");
  }
}

/// The gradient of an unused output is undefined: then zeros.
Tensor present(const Tensor &gradient, const Tensor &like) {
  return gradient.defined() ? gradient.contiguous() : at::zeros_like(like);
}

class FeedForwardOp : public torch::autograd::Function<FeedForwardOp> {
 public:
  static variable_list forward(AutogradContext *context, const Tensor &x, const Weights &weights, bool keep,
                               bool bfloat16) {
    static const auto op = find_op<decltype(Tupled<feed_forward>::call)>("uip::feed_forward");
    at::AutoDispatchBelowADInplaceOrView below;
    const auto [y, kept] = op.call(x, weights, keep, bfloat16);
    variable_list saved{x, kept};
    saved.insert(saved.end(), weights.begin(), weights.end());
    context->save_for_backward(saved);
    context->saved_data["bfloat16"] = bfloat16;
    context->mark_non_differentiable({kept});
    context->set_materialize_grads(false);  // `kept` has none
    return {y, kept};
  }

  static variable_list backward(AutogradContext *context, const variable_list &gradients) {
    static const auto op = find_op<decltype(feed_forward_backward)>("uip::feed_forward_backward");
    const auto saved = context->get_saved_variables();
    const Weights weights(saved.begin() + 2, saved.end());
    const auto gradient = present(gradients[0], saved[0]);
    return {op.call(gradient, saved[0], saved[1], weights, context->saved_data["bfloat16"].toBool()), Tensor(),
            Tensor(), Tensor()};
  }
};

class RowLayerOp : public torch::autograd::Function<RowLayerOp> {
 public:
  static variable_list forward(AutogradContext *context, const Tensor &atoms, const Tensor &bonds,
                               const Tensor &log_weight, const Tensor &direction, const Tensor &bond_slots,
                               const Weights &weights, int64_t heads, const std::vector<int64_t> &degrees,
                               bool only_atoms, bool keep, bool bfloat16) {
    static const auto op = find_op<decltype(Tupled<row_layer>::call)>("uip::row_layer");
    at::AutoDispatchBelowADInplaceOrView below;
    const auto [new_atoms, new_bonds, kept] =
        op.call(atoms, bonds, log_weight, direction, bond_slots, weights, heads, degrees, only_atoms, keep, bfloat16);
    variable_list saved{atoms, bonds, kept, log_weight, direction, bond_slots};
    saved.insert(saved.end(), weights.begin(), weights.end());
    context->save_for_backward(saved);
    context->saved_data["heads"] = heads;
    context->saved_data["degrees"] = degrees;
    context->saved_data["only_atoms"] = only_atoms;
    context->saved_data["bfloat16"] = bfloat16;
    context->mark_non_differentiable({kept});
    context->set_materialize_grads(false);
    return {new_atoms, new_bonds, kept};
  }

  static variable_list backward(AutogradContext *context, const variable_list &gradients) {
    static const auto op = find_op<decltype(Tupled<row_layer_backward>::call)>("uip::row_layer_backward");
    const auto x = context->get_saved_variables();
    const Weights weights(x.begin() + 6, x.end());
    const auto &data = context->saved_data;
    const bool only_atoms = data.at("only_atoms").toBool();
    const auto of_bonds = present(gradients[1], only_atoms ? x[1].slice(0, 0, 0) : x[1]);
    const auto [atoms, bonds, log_weight, direction] =
        op.call(present(gradients[0], x[0]), of_bonds, x[0], x[1], x[2], x[3], x[4], x[5], weights,
                data.at("heads").toInt(), data.at("degrees").toIntVector(), only_atoms, data.at("bfloat16").toBool());
    variable_list result{atoms, bonds, log_weight, direction};
    result.resize(11);
    return result;
  }
};

FeedForwardResult feed_forward_autograd(const Tensor &x, at::TensorList weights, bool keep, bool bfloat16) {
  check_constant(weights.vec());
  const auto result = FeedForwardOp::apply(x, weights.vec(), keep, bfloat16);
  return {result[0], result[1]};
}

RowLayerResult row_layer_autograd(const Tensor &atoms, const Tensor &bonds, const Tensor &log_weight,
                                  const Tensor &direction, const Tensor &bond_slots, at::TensorList weights,
                                  int64_t heads, at::IntArrayRef degrees, bool only_atoms, bool keep, bool bfloat16) {
  check_constant(weights.vec());
  const auto result = RowLayerOp::apply(atoms, bonds, log_weight, direction, bond_slots, weights.vec(), heads,
                                        degrees.vec(), only_atoms, keep, bfloat16);
  return {result[0], result[1], result[2]};
}

void implement_layers(torch::Library &library) {
  library.impl("feed_forward", &Tupled<feed_forward>::call);
  library.impl("feed_forward_backward", &feed_forward_backward);
  library.impl("row_layer", &Tupled<row_layer>::call);
  library.impl("row_layer_backward", &Tupled<row_layer_backward>::call);
}

TORCH_LIBRARY_FRAGMENT(uip, library) {
  library.def("feed_forward(Tensor x, Tensor[] weights, bool keep, bool bfloat16) -> (Tensor, Tensor)");
  library.def(
      "feed_forward_backward(Tensor gradient, Tensor x, Tensor kept, Tensor[] weights, bool bfloat16) -> Tensor");
  library.def(
      "row_layer(Tensor atoms, Tensor bonds, Tensor log_weight, Tensor direction, Tensor bond_slots, Tensor[] weights, "
      "int heads, int[] degrees, bool only_atoms, bool keep, bool bfloat16) -> (Tensor, Tensor, Tensor)");
  library.def(
      "row_layer_backward(Tensor atoms_gradient, Tensor bonds_gradient, Tensor atoms, Tensor bonds, Tensor kept, "
      "Tensor log_weight, Tensor direction, Tensor bond_slots, Tensor[] weights, int heads, int[] degrees, "
      "bool only_atoms, bool bfloat16) -> (Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(uip, CPU, library) { implement_layers(library); }
TORCH_LIBRARY_IMPL(uip, CUDA, library) { implement_layers(library); }

TORCH_LIBRARY_IMPL(uip, Meta, library) {
  library.impl("feed_forward", &Tupled<feed_forward_meta>::call);
  library.impl("feed_forward_backward", &feed_forward_backward_meta);
  library.impl("row_layer", &Tupled<row_layer_meta>::call);
  library.impl("row_layer_backward", &Tupled<row_layer_backward_meta>::call);
}

TORCH_LIBRARY_IMPL(uip, Autograd, library) {
  library.impl("feed_forward", &Tupled<feed_forward_autograd>::call);
  library.impl("row_layer", &Tupled<row_layer_autograd>::call);
  // a second derivative must be an error, never zero
  library.impl("feed_forward_backward", torch::autograd::autogradNotImplementedFallback());
  library.impl("row_layer_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace uip
