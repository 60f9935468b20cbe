#include "fused_rows.h"

#include <ATen/Dispatch.h>
#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "row_kernels.h"

namespace uip {
namespace {

using at::Tensor;

constexpr int64_t tokens_of_kernel_tile = 48, atoms_of_kernel_tile = 24;

/// W of row_kernels.h.
int64_t width_of_rows(int64_t channels, int64_t heads, const std::vector<int64_t> &degrees, int64_t panel) {
  const bool is_whole = degrees.size() == 1 && channels / heads % panel == 0;
  return (channels + (is_whole ? 0 : panel - 1) + panel - 1) / panel * panel;
}

Tensor padded_columns(const Tensor &x, int64_t width) { return at::constant_pad_nd(x, {0, width - x.size(-1)}); }

/// (K, n) in parts of panels.
Tensor packed_in_parts(const Tensor &x, int64_t panel) {
  std::vector<Tensor> parts;
  for (const auto &part : x.split(depth_of_part)) {
    parts.push_back(part.reshape({part.size(0), -1, panel}).transpose(0, 1).flatten());
  }
  return at::cat(parts);
}

/// First bond of each atom, and the number of bonds.
std::vector<int64_t> bond_offsets(const Tensor &slots) {
  const auto rows = slots.contiguous();
  const int64_t *slot = rows.const_data_ptr<int64_t>(), width = rows.size(1);
  std::vector<int64_t> offsets{0};
  for (int64_t atom = 0; atom < rows.size(0); ++atom, slot += width) {
    offsets.push_back(offsets.back() + std::count_if(slot, slot + width, [](int64_t bond) { return bond >= 0; }));
  }
  return offsets;
}

}  // namespace

bool has_fused_rows(const Tensor &x, at::ScalarType type) {
  return x.is_cpu() && type == x.scalar_type() && (type == at::kFloat || type == at::kDouble);
}

FusedRows::FusedRows(const RowLayerWeights &w, int64_t heads, std::vector<int64_t> degrees, bool only_atoms)
    : channels_(w.norm.size(0)), heads_(heads), degrees_(std::move(degrees)), only_atoms_(only_atoms) {
  const int64_t panel = 64 / static_cast<int64_t>(w.norm.element_size());
  width_ = width_of_rows(channels_, heads_, degrees_, panel);
  const auto wide = [&](const Tensor &x) { return padded_columns(x, width_); };
  const auto factor = at::ones({3, 1}, w.qkv.options());
  factor[0].fill_(1.0 / std::sqrt(double(channels_ / heads_)));
  const auto qkv = (w.qkv * w.norm).view({3, channels_, channels_}) * factor.unsqueeze(2);
  const auto output = w.output * w.scale;
  qkv_bias_ = wide(w.qkv_bias.view({3, channels_}) * factor).contiguous();
  qkv_ = wide(qkv.permute({2, 0, 1})).flatten(1).contiguous();
  qkv_back_ = at::constant_pad_nd(wide(qkv), {0, 0, 0, width_ - channels_}).flatten(0, 1).contiguous();
  output_bias_ = wide(w.output_bias * w.scale).contiguous();
  output_ = wide(output.t()).contiguous();
  output_back_ = wide(output).contiguous();
  if (only_atoms_) return;
  for (Tensor *matrix : {&qkv_, &qkv_back_, &output_, &output_back_}) *matrix = packed_in_parts(*matrix, panel);
}

/// Rows, their tiles and weights as kernels see them.
template <typename T>
class FusedRows::Call {
 public:
  Call(const FusedRows &layer, const Tokens &x, const Bonds &bonds)
      : offsets_(bond_offsets(bonds.slots)),
        atoms_(x.atoms.contiguous()),
        bonds_(x.bonds.contiguous()),
        log_weight_(bonds.log_weight.contiguous()),
        direction_(bonds.direction.contiguous()) {
    const int64_t num_bonds = bonds_.size(0);
    TORCH_CHECK(offsets_.back() == num_bonds, "row_layer: `bond_slots` must have every bond once, got ",
                offsets_.back(), " bonds instead of ", num_bonds);
    rows_.channels = layer.channels_, rows_.heads = layer.heads_, rows_.width = layer.width_;
    rows_.degrees = layer.degrees_.data(), rows_.num_degrees = static_cast<int>(layer.degrees_.size());
    rows_.atoms = of(atoms_), rows_.bonds = of(bonds_);
    rows_.log_weight = of(log_weight_), rows_.direction = of(direction_);
    rows_.weights = {of(layer.qkv_),         of(layer.qkv_bias_), of(layer.output_),
                     of(layer.output_bias_), of(layer.qkv_back_), of(layer.output_back_)};
    make_tiles(layer.only_atoms_);
  }

  /// Calls kernels for all tiles; a tile is computed in the same way whatever thread has it.
  template <typename Kernel, typename Results>
  void run(const Kernel &kernel, const Results &results) const {
    at::parallel_for(0, static_cast<int64_t>(tiles_.size()) - 1, 1,
                     [&](int64_t begin, int64_t end) { kernel(rows_, results, begin, end); });
  }

  const RowKernels<T> &kernels() const { return row_kernels<T>(); }

  static const T *of(const Tensor &x) { return x.numel() ? x.const_data_ptr<T>() : nullptr; }
  static T *to(const Tensor &x) { return x.numel() ? x.mutable_data_ptr<T>() : nullptr; }

 private:
  void make_tiles(bool only_atoms) {
    const int64_t num_atoms = static_cast<int64_t>(offsets_.size()) - 1;
    const auto tokens = [&](int64_t first, int64_t last) { return offsets_[last] - offsets_[first] + last - first; };
    int64_t longest = 0, most_tokens = 0, most_atoms = 0;
    tiles_.push_back(0);
    for (int64_t atom = 0; atom < num_atoms; ++atom) {
      longest = std::max(longest, tokens(atom, atom + 1));
      const int64_t first = tiles_.back(), most = only_atoms ? atoms_of_kernel_tile : tokens_of_kernel_tile;
      const int64_t size = only_atoms ? atom + 1 - first : tokens(first, atom + 1);
      if (size > most && atom > first) tiles_.push_back(atom);
      most_tokens = std::max(most_tokens, tokens(tiles_.back(), atom + 1));
      most_atoms = std::max(most_atoms, atom + 1 - tiles_.back());
    }
    if (num_atoms > 0) tiles_.push_back(num_atoms);
    rows_.offsets = offsets_.data(), rows_.tiles = tiles_.data();
    rows_.longest = static_cast<int>(longest);
    rows_.most_tokens = static_cast<int>(most_tokens), rows_.most_atoms = static_cast<int>(most_atoms);
  }

  std::vector<int64_t> offsets_, tiles_;
  Tensor atoms_, bonds_, log_weight_, direction_;
  TokenRows<T> rows_{};
};

Tokens FusedRows::forward(const Tokens &x, const Bonds &bonds, bool keep) const {
  const int64_t num_tokens = x.atoms.size(0) + x.bonds.size(0);
  Tokens result{at::empty(x.atoms.sizes(), x.atoms.options()),
                at::empty({only_atoms_ ? 0 : x.bonds.size(0), channels_}, x.bonds.options()),
                at::empty({keep ? num_tokens : 0, 3 * channels_}, x.atoms.options())};
  AT_DISPATCH_FLOATING_TYPES(x.atoms.scalar_type(), "row_layer", [&] {
    using C = Call<scalar_t>;
    const C call(*this, x, bonds);
    const auto &kernels = call.kernels();
    call.run(only_atoms_ ? kernels.atoms_forward : kernels.forward,
             RowResults<scalar_t>{C::to(result.atoms), C::to(result.bonds), C::to(result.kept)});
  });
  return result;
}

RowLayerGradient FusedRows::backward(const Tokens &gradient, const Tokens &x, const Bonds &bonds) const {
  RowLayerGradient result{
      {at::empty(x.atoms.sizes(), x.atoms.options()), at::empty(x.bonds.sizes(), x.bonds.options()), {}},
      at::empty(bonds.log_weight.sizes(), bonds.log_weight.options()),
      at::zeros(bonds.direction.sizes(), bonds.direction.options())};
  const auto of_atoms = gradient.atoms.contiguous(), of_bonds = gradient.bonds.contiguous();
  AT_DISPATCH_FLOATING_TYPES(x.atoms.scalar_type(), "row_layer_backward", [&] {
    using C = Call<scalar_t>;
    const C call(*this, x, bonds);
    const auto &kernels = call.kernels();
    call.run(only_atoms_ ? kernels.atoms_backward : kernels.backward,
             RowDerivatives<scalar_t>{C::of(of_atoms), C::of(of_bonds), C::of(x.kept), C::to(result.tokens.atoms),
                                      C::to(result.tokens.bonds), C::to(result.log_weight), C::to(result.direction)});
  });
  return result;
}

}  // namespace uip
