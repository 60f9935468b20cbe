#include "row_layer.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <algorithm>
#include <utility>

#include "feed_forward.h"

namespace uip {

using at::Tensor;

/// Some atoms and their bonds.
struct RowLayer::Part {
  int64_t atom, num_atoms, bond, num_bonds;

  Tensor of_atoms(const Tensor &x) const { return x.narrow(0, atom, num_atoms); }
  Tensor of_bonds(const Tensor &x) const { return x.narrow(0, bond, num_bonds); }
  Tensor tokens(const Tokens &x) const { return at::cat({of_atoms(x.atoms), of_bonds(x.bonds)}); }
  Tensor atoms_of(const Tensor &tile) const { return tile.narrow(0, 0, num_atoms); }
  Tensor bonds_of(const Tensor &tile) const { return tile.narrow(0, num_atoms, num_bonds); }
  /// Writes a + b, tokens of this tile; only atoms, if a or b has no rows of bonds.
  void add(Tokens &result, const Tensor &a, const Tensor &b) const {
    auto atoms = of_atoms(result.atoms);
    at::add_out(atoms, atoms_of(a), atoms_of(b));
    if (std::min(a.size(0), b.size(0)) == num_atoms) return;
    auto bonds = of_bonds(result.bonds);
    at::add_out(bonds, bonds_of(a), bonds_of(b));
  }
  /// Kept rows are in the order of tiles.
  Tensor of_kept(const Tensor &x) const { return x.narrow(0, atom + bond, num_atoms + num_bonds); }
};

RowLayer::RowLayer(const RowLayerWeights &w, int64_t heads, std::vector<int64_t> degrees, bool only_atoms,
                   at::ScalarType type)
    : qkv_(w.qkv * w.norm, w.qkv_bias, type),
      output_(w.output * w.scale, w.output_bias * w.scale, type),
      heads_(heads),
      channels_(w.norm.size(0)),
      degrees_(std::move(degrees)),
      only_atoms_(only_atoms),
      type_(type) {}

Tokens RowLayer::forward(const Tokens &x, const Bonds &bonds, bool keep) const {
  const int64_t num_tokens = x.atoms.size(0) + x.bonds.size(0);
  Tokens result{at::empty_like(x.atoms), x.bonds.new_empty({only_atoms_ ? 0 : x.bonds.size(0), channels_}),
                x.atoms.new_empty({keep ? num_tokens : 0, 3 * channels_}, x.atoms.options().dtype(type_))};
  for (const Part &part : parts(bonds)) {
    const auto tokens = part.tokens(x);
    const auto rows = this->rows(part, bonds);
    const Normed normed(tokens);
    Tensor qkv;
    if (!only_atoms_) {
      qkv = keep ? part.of_kept(result.kept) : at::empty({tokens.size(0), 3 * channels_}, result.kept.options());
      qkv_.into(qkv, normed.values());
    }
    const auto context = rows.attend(by_head(normed.values(), qkv, rows, part.num_atoms));
    part.add(result, tokens,
             output_(only_atoms_ ? context.view({part.num_atoms, channels_}) : rows.collect(context.unsqueeze(0))));
  }
  return result;
}

RowLayerGradient RowLayer::backward(const Tokens &gradient, const Tokens &x, const Bonds &bonds) const {
  RowLayerGradient result{{at::empty_like(x.atoms), at::empty_like(x.bonds), {}},
                          at::empty_like(bonds.log_weight),
                          at::zeros_like(bonds.direction)};
  const bool is_kept = x.kept.size(0) > 0;
  for (const Part &part : parts(bonds)) {
    const Normed normed(part.tokens(x));
    const auto rows = this->rows(part, bonds);
    const auto of_out = only_atoms_ ? part.of_atoms(gradient.atoms) : part.tokens(gradient);
    const auto of_context = output_.backward(of_out);
    Tensor qkv;
    if (!only_atoms_) qkv = is_kept ? part.of_kept(x.kept) : qkv_(normed.values());
    const auto inner = rows.backward(only_atoms_ ? own_heads(of_context) : rows.spread(of_context, 1)[0],
                                     by_head(normed.values(), qkv, rows, part.num_atoms));
    const auto of_tokens = normed.backward(input_gradient(inner, rows, part.num_atoms));
    part.add(result.tokens, of_tokens, of_out);
    if (only_atoms_) part.of_bonds(result.tokens.bonds).copy_(part.bonds_of(of_tokens));
    part.of_bonds(result.log_weight).copy_(inner.log_weight);
    if (inner.direction.defined()) part.of_bonds(result.direction).copy_(inner.direction);
  }
  return result;
}

/// Queries, keys and values; of bonds' tokens no queries if only atoms are written.
RowHeads RowLayer::by_head(const Tensor &normed, const Tensor &qkv, const RowTile &rows, int64_t num_atoms) const {
  if (!only_atoms_) {
    const auto parts = rows.spread(qkv, 3);
    return {parts[0], parts[1], parts[2]};
  }
  const auto queries = qkv_.outputs(0, channels_)(normed.narrow(0, 0, num_atoms));
  const auto parts = rows.spread(qkv_.outputs(channels_, 2 * channels_)(normed), 2);
  return {own_heads(queries), parts[0], parts[1]};
}

/// Adjoint of `by_head`: gradient of the normed tokens.
Tensor RowLayer::input_gradient(const RowGradient &gradient, const RowTile &rows, int64_t num_atoms) const {
  const auto of_table = rows.collect(gradient.table);
  if (!only_atoms_) return qkv_.backward(of_table);
  const auto result = qkv_.outputs(channels_, 2 * channels_).backward(of_table);
  const auto of_queries = gradient.queries.view({num_atoms, channels_});
  result.narrow(0, 0, num_atoms).add_(qkv_.outputs(0, channels_).backward(of_queries));
  return result;
}

Tensor RowLayer::own_heads(const Tensor &x) const { return x.view({-1, 1, channels_ / heads_}); }

RowTile RowLayer::rows(const Part &part, const Bonds &bonds) const {
  return {part.of_atoms(bonds.slots),     part.bond, part.of_bonds(bonds.log_weight),
          part.of_bonds(bonds.direction), heads_,    degrees_};
}

std::vector<RowLayer::Part> RowLayer::parts(const Bonds &bonds) const {
  const int64_t num_atoms = bonds.slots.size(0);
  const int64_t step = std::max<int64_t>(1, tokens_of_tile(bonds.log_weight) / (bonds.slots.size(1) + 1));
  const auto ends = (bonds.slots >= 0).sum(1).cumsum(0).cpu();
  const int64_t *end = ends.const_data_ptr<int64_t>();
  std::vector<Part> result;
  for (int64_t atom = 0; atom < num_atoms; atom += step) {
    const int64_t count = std::min(step, num_atoms - atom), bond = atom ? end[atom - 1] : 0;
    result.push_back({atom, count, bond, end[atom + count - 1] - bond});
  }
  return result;
}

}  // namespace uip
