#include "row_tile.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <cmath>
#include <utility>

#include "dense.h"

namespace uip {
namespace {

using at::Tensor;

constexpr double empty_logit = -1e9;  // logit of an empty slot

/// Slots for that many bonds and the atom itself, a multiple of 8: products of other sizes take up to twice the time.
int64_t padded(int64_t num_bonds) { return (num_bonds + 8) / 8 * 8; }

double scale_of(const Tensor &q) { return 1.0 / std::sqrt(double(q.size(2))); }

/// P_l (values) and dP_l / dx (slopes) for l = 0 .. number - 1.
void legendre(const Tensor &x, size_t number, std::vector<Tensor> &values, std::vector<Tensor> &slopes) {
  values = {at::ones_like(x), x};
  slopes = {at::zeros_like(x), at::ones_like(x)};
  for (size_t l = 2; l < number; ++l) {
    const double n = double(l);
    values.push_back(((2 * n - 1) * x * values[l - 1] - (n - 1) * values[l - 2]) / n);
    slopes.push_back(slopes[l - 2] + (2 * n - 1) * values[l - 1]);
  }
  values.resize(number);
  slopes.resize(number);
}

}  // namespace

RowTile::RowTile(const Tensor &unpadded_slots, int64_t first_bond, const Tensor &log_weight, const Tensor &direction,
                 int64_t heads, std::vector<int64_t> degrees)
    : num_atoms_(unpadded_slots.size(0)),
      width_(padded(unpadded_slots.size(1))),
      heads_(heads),
      degrees_(std::move(degrees)) {
  const auto bond_slots = at::constant_pad_nd(unpadded_slots, {0, width_ - 1 - unpadded_slots.size(1)}, -1);
  const auto integers = bond_slots.options();
  const int64_t num_bonds = log_weight.size(0);
  const auto empty = bond_slots < 0;
  const auto atoms = at::arange(num_atoms_, integers).unsqueeze(1);
  token_ = at::cat({atoms, at::where(empty, atoms, bond_slots + (num_atoms_ - first_bond))}, 1);
  const auto slots = at::arange(num_atoms_ * width_, integers).view({num_atoms_, width_});
  const auto places = at::where(empty, num_bonds, bond_slots - first_bond).flatten();  // the last place: unused
  const auto bond_slot = slots.narrow(1, 1, width_ - 1).flatten();
  slot_ = at::cat({slots.select(1, 0), at::zeros({num_bonds + 1}, integers).scatter_(0, places, bond_slot)})
              .narrow(0, 0, num_atoms_ + num_bonds);
  const auto all_filled = at::cat({at::ones_like(atoms, at::kBool), empty.logical_not()}, 1);
  filled_ = all_filled.to(log_weight.scalar_type());
  const auto by_token = [&](const Tensor &x) {
    auto shape = x.sizes().vec();
    shape[0] = num_atoms_;
    return at::cat({at::zeros(shape, x.options()), x}).index_select(0, token_.flatten());
  };
  bias_ = by_token(log_weight).view({num_atoms_, width_}).masked_fill_(all_filled.logical_not(), empty_logit);
  if (!is_angular()) return;
  directions_ = by_token(direction).view({num_atoms_, width_, 3});
  legendre(at::bmm(directions_, directions_.mT()), degrees_.size(), legendre_, slopes_);
  const auto has_direction = (token_ >= num_atoms_).to(directions_.scalar_type());
  const auto both = has_direction.unsqueeze(2) * has_direction.unsqueeze(1);
  for (size_t l = 1; l < degrees_.size(); ++l) {
    legendre_[l].mul_(both);
    slopes_[l] = slopes_[l] * both;
  }
}

std::vector<Tensor> RowTile::spread(const Tensor &x, int64_t parts) const {
  const auto integers = token_.options();
  const auto part = at::arange(parts, integers).view({parts, 1, 1, 1});
  const auto head = at::arange(heads_, integers).view({1, 1, heads_, 1});
  const auto row = (token_.view({1, num_atoms_, 1, width_}) * parts + part) * heads_ + head;
  const int64_t size = x.size(1) / (parts * heads_);
  return x.reshape({-1, size}).index_select(0, row.flatten()).view({parts, -1, width_, size}).unbind(0);
}

Tensor RowTile::collect(const Tensor &parts) const {
  const auto integers = slot_.options();
  const int64_t number = parts.size(0), size = parts.size(3);
  const auto part = at::arange(number, integers).view({1, number, 1});
  const auto head = at::arange(heads_, integers).view({1, 1, heads_});
  const auto atom = slot_.floor_divide(width_).view({-1, 1, 1}), slot = slot_.remainder(width_).view({-1, 1, 1});
  const auto row = ((part * num_atoms_ + atom) * heads_ + head) * width_ + slot;
  return parts.view({-1, size}).index_select(0, row.flatten()).view({slot_.size(0), number * heads_ * size});
}

Tensor RowTile::attend(const RowHeads &heads) const {
  return at::bmm(weights(heads).to(heads.v.scalar_type()), heads.v);
}

RowGradient RowTile::backward(const Tensor &gradient, const RowHeads &heads) const {
  const int64_t queries = heads.q.size(1);
  const auto type = heads.q.scalar_type();
  auto p = weights(heads).view({num_atoms_, heads_, queries, width_});
  if (queries > 1) p.mul_(filled_.view({num_atoms_, 1, width_, 1}));  // queries of empty slots do not count
  const auto flat = p.view({-1, queries, width_});
  const auto weighted = flat * at::bmm(gradient, heads.v.mT());
  const auto by_logit = at::addcmul(weighted, flat, weighted.sum(2, true), -1.0);
  RowGradient result;
  const bool all = queries == width_;
  auto sizes = heads.k.sizes().vec();
  sizes.insert(sizes.begin(), all ? 3 : 2);
  result.table = at::empty(sizes, heads.k.options());
  result.queries = all ? result.table[0] : at::empty_like(heads.q);
  auto of_keys = result.table[all ? 1 : 0], of_values = result.table[all ? 2 : 1];
  at::bmm_out(of_values, flat.to(type).mT(), gradient);
  if (!is_angular()) {
    const auto scaled = (by_logit * scale_of(heads.q)).to(type);
    at::bmm_out(result.queries, scaled, heads.k);
    at::bmm_out(of_keys, scaled.mT(), heads.q);
  } else {
    const auto by_cosine = angular_backward(by_logit, heads, result.queries, of_keys);
    const auto own = directions_.narrow(1, 0, queries);
    auto by_direction = at::bmm(by_cosine.mT(), own);
    by_direction.narrow(1, 0, queries).add_(at::bmm(by_cosine, directions_));
    result.direction = of_bonds(by_direction);
  }
  result.log_weight = of_bonds(by_logit.view({num_atoms_, heads_ * queries, width_}).sum(1));
  return result;
}

Tensor RowTile::weights(const RowHeads &heads) const {
  const int64_t queries = heads.q.size(1);
  const auto q = heads.q.to(wide(heads.q.scalar_type())), k = heads.k.to(q.scalar_type());
  auto logits = is_angular() ? angular_logits(q, k) : at::bmm(q, k.mT());
  logits = at::add(bias_.view({num_atoms_, 1, 1, width_}), logits.view({num_atoms_, heads_, queries, width_}),
                   scale_of(heads.q));
  return at::softmax(logits, 3).view({-1, queries, width_});
}

Tensor RowTile::angular_logits(const Tensor &q, const Tensor &k) const {
  const auto by_degree = [&](const Tensor &x) { return x.split_with_sizes(degrees_, 2); };
  const auto queries = by_degree(q), keys = by_degree(k);
  const std::vector<int64_t> shape{num_atoms_, heads_, q.size(1), width_};
  auto sum = at::zeros(shape, q.options());
  for (size_t l = 0; l < degrees_.size(); ++l) {
    sum.addcmul_(at::bmm(queries[l], keys[l].mT()).view(shape), legendre_[l].narrow(1, 0, q.size(1)).unsqueeze(1));
  }
  return sum;
}

/// Gradients of q and k into `of_queries` and `of_keys`; returns that of the cosines, (n, Q, W).
Tensor RowTile::angular_backward(const Tensor &by_logit, const RowHeads &heads, Tensor of_queries,
                                 Tensor of_keys) const {
  const int64_t num_queries = heads.q.size(1);
  const std::vector<int64_t> shape{num_atoms_, heads_, num_queries, width_};
  const auto scaled = (by_logit * scale_of(heads.q)).view(shape);
  const auto queries = heads.q.split_with_sizes(degrees_, 2), keys = heads.k.split_with_sizes(degrees_, 2);
  std::vector<Tensor> queries_parts, keys_parts;
  auto by_cosine = at::zeros({num_atoms_, num_queries, width_}, by_logit.options());
  for (size_t l = 0; l < degrees_.size(); ++l) {
    const auto part = (scaled * legendre_[l].narrow(1, 0, num_queries).unsqueeze(1))
                          .view({-1, num_queries, width_})
                          .to(queries[l].scalar_type());
    queries_parts.push_back(at::bmm(part, keys[l]));
    keys_parts.push_back(at::bmm(part.mT(), queries[l]));
    if (l == 0) continue;  // P_0 is a constant
    const auto product = (scaled * at::bmm(queries[l], keys[l].mT()).view(shape)).sum(1);
    by_cosine.addcmul_(product, slopes_[l].narrow(1, 0, num_queries));
  }
  at::cat_out(of_queries, queries_parts, 2);
  at::cat_out(of_keys, keys_parts, 2);
  return by_cosine;
}

Tensor RowTile::of_bonds(const Tensor &by_slot) const {
  const int64_t num_bonds = slot_.size(0) - num_atoms_;
  return by_slot.flatten(0, 1).index_select(0, slot_.narrow(0, num_atoms_, num_bonds));
}

}  // namespace uip
