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

constexpr int64_t atoms_of_kernel_tile = 24;

/// Tokens of a tile. Wide weights do not stay in the second level of cache: more tokens for each reading of them.
int64_t tokens_of_kernel_tile(int64_t width) { return width < 512 ? 64 : 192; }

/// W of row_kernels.h.
int64_t width_of_rows(int64_t channels, int64_t heads, const std::vector<int64_t> &degrees, int64_t size) {
  const bool is_whole = degrees.size() == 1 && channels / heads % size == 0;
  return (channels + (is_whole ? 0 : size - 1) + size - 1) / size * size;
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

template <typename T>
constexpr int64_t panel_of_rows = 64 / sizeof(T);

/// Maps of tokens, (H, H) each, one below the other, laid out for kernels (`RowWeights`).
template <typename T>
struct RowMatrix {
  const T *weight;         // (maps H, H): outputs, inputs
  const T *input_factors;  // (H), or null: 1
  T factors[3];            // of each map
  int64_t channels, width;

  /// (H, maps W)
  Tensor transposed(int64_t maps, bool packed) const {
    return laid_out(channels, maps * width, packed, [&](int64_t k, int64_t column, T *place) {
      const int64_t map = column / width, first = column % width, count = inside(first);
      const T *from = weight + (map * channels + first) * channels + k;
      const T factor = factors[map] * (input_factors ? input_factors[k] : T(1));
      for (int64_t j = 0; j < count; ++j) place[j] = from[j * channels] * factor;
    });
  }

  /// (maps W, W); of one map (H, W)
  Tensor plain(int64_t maps, bool packed) const {
    return laid_out(maps == 1 ? channels : maps * width, width, packed, [&](int64_t k, int64_t column, T *place) {
      const int64_t map = k / width, output = k % width, count = output < channels ? inside(column) : 0;
      const T *from = weight + (map * channels + output) * channels + column;
      for (int64_t j = 0; j < count; ++j) {
        place[j] = from[j] * factors[map] * (input_factors ? input_factors[column + j] : T(1));
      }
    });
  }

  /// (maps W) of (maps H)
  Tensor bias(const T *from, int64_t maps) const {
    const auto result = at::zeros({maps * width}, c10::CppTypeToScalarType<T>::value);
    T *to = result.template mutable_data_ptr<T>();
    for (int64_t map = 0; map < maps; ++map) {
      for (int64_t c = 0; c < channels; ++c) to[map * width + c] = from[map * channels + c] * factors[map];
    }
    return result;
  }

 private:
  /// Channels of a panel of columns.
  int64_t inside(int64_t first) const { return std::clamp<int64_t>(channels - first, 0, panel_of_rows<T>); }

  /// A matrix (rows, columns), zero where `write(row, column, place)`, for each panel of columns, does not write.
  template <typename Write>
  static Tensor laid_out(int64_t rows, int64_t columns, bool packed, const Write &write) {
    const auto result = at::zeros({rows, columns}, c10::CppTypeToScalarType<T>::value);
    T *to = result.template mutable_data_ptr<T>();
    at::parallel_for(0, columns / panel_of_rows<T>, 32, [&](int64_t begin, int64_t end) {
      for (int64_t column = begin * panel_of_rows<T>; column < end * panel_of_rows<T>; column += panel_of_rows<T>) {
        for (int64_t k = 0; k < rows; ++k) {
          const int64_t start = k / depth_of_part * depth_of_part,
                        depth = std::min(rows - start, int64_t{depth_of_part});
          write(
              k, column,
              to + (packed ? start * columns + column * depth + (k - start) * panel_of_rows<T> : k * columns + column));
        }
      }
    });
    return result;
  }
};

}  // namespace

bool has_fused_rows(const Tensor &x, at::ScalarType type, bool only_atoms) {
  const bool is_known = type == x.scalar_type() && (type == at::kFloat || type == at::kDouble);
  return x.is_cpu() && is_known && x.size(1) <= (only_atoms ? 1024 : 640);
}

FusedRows::FusedRows(const RowLayerWeights &w, int64_t heads, std::vector<int64_t> degrees, bool only_atoms)
    : weights_{w.norm.contiguous(),   w.qkv.contiguous(),         w.qkv_bias.contiguous(),
               w.output.contiguous(), w.output_bias.contiguous(), w.scale},
      channels_(w.norm.size(0)),
      heads_(heads),
      degrees_(std::move(degrees)),
      only_atoms_(only_atoms) {}

/// Rows, their tiles and weights as kernels see them.
template <typename T>
class FusedRows::Call {
 public:
  /// `gradient`: for the derivative; `known`: queries, keys and values are kept.
  Call(const FusedRows &layer, const Tokens &x, const Bonds &bonds, bool gradient, bool known = false)
      : offsets_(bond_offsets(bonds.slots)),
        atoms_(x.atoms.contiguous()),
        bonds_(x.bonds.contiguous()),
        log_weight_(bonds.log_weight.contiguous()),
        direction_(bonds.direction.contiguous()) {
    const int64_t num_bonds = bonds_.size(0);
    TORCH_CHECK(offsets_.back() == num_bonds, "row_layer: `bond_slots` must have every bond once, got ",
                offsets_.back(), " bonds instead of ", num_bonds);
    rows_.channels = layer.channels_, rows_.heads = layer.heads_;
    rows_.width = width_of_rows(layer.channels_, layer.heads_, layer.degrees_, panel_of_rows<T>);
    rows_.degrees = layer.degrees_.data(), rows_.num_degrees = static_cast<int>(layer.degrees_.size());
    rows_.atoms = of(atoms_), rows_.bonds = of(bonds_);
    rows_.log_weight = of(log_weight_), rows_.direction = of(direction_);
    make_weights(layer, gradient, known);
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
  void make_weights(const FusedRows &layer, bool gradient, bool known) {
    const auto &w = layer.weights_;
    const T in_logits = static_cast<T>(1.0 / std::sqrt(double(rows_.channels / rows_.heads)));
    const RowMatrix<T> qkv{of(w.qkv), of(w.norm), {in_logits, T(1), T(1)}, rows_.channels, rows_.width};
    const T scale = w.scale.item<T>();
    const RowMatrix<T> output{of(w.output), nullptr, {scale}, rows_.channels, rows_.width};
    const bool packed = !layer.only_atoms_;
    auto &to = rows_.weights;
    if (!known) {
      to.qkv = keep(qkv.transposed(3, packed));
      to.qkv_bias = keep(qkv.bias(of(w.qkv_bias), 3));
    }
    if (gradient || layer.only_atoms_) to.qkv_back = keep(qkv.plain(3, packed));
    if (gradient) {
      to.output_back = keep(output.plain(1, packed));
    } else {
      to.output = keep(output.transposed(1, packed));
      to.output_bias = keep(output.bias(of(w.output_bias), 1));
    }
  }

  const T *keep(const Tensor &matrix) {
    matrices_.push_back(matrix);
    return of(matrix);
  }

  void make_tiles(bool only_atoms) {
    const int64_t num_atoms = static_cast<int64_t>(offsets_.size()) - 1;
    const auto tokens = [&](int64_t first, int64_t last) { return offsets_[last] - offsets_[first] + last - first; };
    int64_t longest = 0, most_tokens = 0, most_atoms = 0;
    tiles_.push_back(0);
    for (int64_t atom = 0; atom < num_atoms; ++atom) {
      longest = std::max(longest, tokens(atom, atom + 1));
      const int64_t first = tiles_.back(),
                    most = only_atoms ? atoms_of_kernel_tile : tokens_of_kernel_tile(rows_.width);
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
  std::vector<Tensor> matrices_;
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
    const C call(*this, x, bonds, false);
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
    const C call(*this, x, bonds, true, x.kept.size(0) > 0);
    const auto &kernels = call.kernels();
    call.run(only_atoms_ ? kernels.atoms_backward : kernels.backward,
             RowDerivatives<scalar_t>{C::of(of_atoms), C::of(of_bonds), C::of(x.kept), C::to(result.tokens.atoms),
                                      C::to(result.tokens.bonds), C::to(result.log_weight), C::to(result.direction)});
  });
  return result;
}

}  // namespace uip
