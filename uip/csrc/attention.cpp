#include "attention.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "dense.h"

namespace uip {
namespace {

using at::Tensor;

constexpr int64_t tile_elements = int64_t{1} << 23;  // of the largest intermediate of a tile: 32 MB in float32

}  // namespace

Attention::Attention(int64_t heads, std::optional<Radial> radial) : heads_(heads), radial_(std::move(radial)) {
  if (radial_) shifts_ = candidate_shifts(radial_->cell, radial_->pbc);
}

Attended Attention::forward(const Tensor &q, const Keys &keys) const {
  if (q.size(0) == 0 || keys.k.size(0) == 0) {
    const auto none = -std::numeric_limits<double>::infinity();
    return {at::zeros_like(q), at::full({q.size(0), heads_}, none, q.options().dtype(wide(q.scalar_type())))};
  }
  if (!is_fused(q)) return forward_tiled(q, keys);
  const auto [out, lse] = at::_scaled_dot_product_flash_attention_for_cpu(
      by_head(q).unsqueeze(0), by_head(keys.k).unsqueeze(0), by_head(keys.v).unsqueeze(0));
  return {out.squeeze(0).transpose(0, 1).flatten(1), lse.squeeze(0).t()};
}

BlockGradient Attention::backward(const Tensor &gradient, const Tensor &q, const Keys &keys,
                                  const Attended &attended) const {
  if (q.size(0) == 0 || keys.k.size(0) == 0) {
    BlockGradient none{at::zeros_like(q), at::zeros_like(keys.k), at::zeros_like(keys.v), {}, {}, {}};
    if (radial_) {
      none.query_positions = at::zeros({q.size(0), 3}, q.options());
      none.key_positions = at::zeros_like(keys.positions);
      none.strain = at::zeros({q.size(0), 3, 3}, q.options());
    }
    return none;
  }
  if (!is_fused(q)) return backward_tiled(gradient, q, keys, attended);
  const auto batch = [&](const Tensor &x) { return by_head(x).unsqueeze(0); };
  const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      batch(gradient), batch(q), batch(keys.k), batch(keys.v), batch(attended.out), attended.lse.t().unsqueeze(0), 0.0,
      false);
  const auto flat = [](const Tensor &x) { return x.squeeze(0).transpose(0, 1).flatten(1); };
  return {flat(dq), flat(dk), flat(dv), {}, {}, {}};
}

/// torch's own kernel has no bias and runs on the CPU.
bool Attention::is_fused(const Tensor &q) const { return !radial_ && q.is_cpu(); }

Attended Attention::forward_tiled(const Tensor &q, const Keys &keys) const {
  const auto type = wide(q.scalar_type());
  const auto k = by_head(keys.k).to(type), v = by_head(keys.v).to(type);
  const auto queries = by_head(q).to(type) / std::sqrt(double(q.size(1) / heads_));
  std::vector<Tensor> outs, lses;
  const int64_t step = rows_of_tile(k.size(1));
  for (int64_t start = 0; start < q.size(0); start += step) {
    const int64_t count = std::min(step, q.size(0) - start);
    auto logits = at::matmul(queries.narrow(1, start, count), k.mT());
    if (radial_) {
      logits =
          logits + RadialTile(*radial_, shifts_, radial_->positions.narrow(0, start, count), keys.positions).bias();
    }
    const auto lse = at::logsumexp(logits, {2}, true);
    outs.push_back(at::matmul((logits - lse).exp_(), v).transpose(0, 1).flatten(1));
    lses.push_back(lse.squeeze(2).t());
  }
  return {at::cat(outs), at::cat(lses)};
}

BlockGradient Attention::backward_tiled(const Tensor &gradient, const Tensor &q, const Keys &keys,
                                        const Attended &attended) const {
  const double scale = 1.0 / std::sqrt(double(q.size(1) / heads_));
  const auto type = wide(q.scalar_type());
  const auto k = by_head(keys.k).to(type), v = by_head(keys.v).to(type), queries = by_head(q).to(type) * scale;
  const auto out_gradient = by_head(gradient).to(type), lse = attended.lse.t().unsqueeze(2);
  const auto weighted = (out_gradient * by_head(attended.out).to(type)).sum(2, true);  // sum over keys of P dP
  auto dk = at::zeros_like(k), dv = at::zeros_like(v);
  std::vector<Tensor> dq, query_positions, strain;
  Tensor key_positions = radial_ ? at::zeros_like(keys.positions) : Tensor();
  const int64_t step = rows_of_tile(k.size(1));
  for (int64_t start = 0; start < q.size(0); start += step) {
    const int64_t count = std::min(step, q.size(0) - start);
    const auto part = [&](const Tensor &x) { return x.narrow(1, start, count); };
    auto logits = at::matmul(part(queries), k.mT());
    std::optional<RadialTile> tile;
    if (radial_) {
      tile.emplace(*radial_, shifts_, radial_->positions.narrow(0, start, count), keys.positions);
      logits = logits + tile->bias();
    }
    const auto p = (logits - part(lse)).exp_();
    const auto ds = p * (at::matmul(part(out_gradient), v.mT()) - part(weighted));
    dv += at::matmul(p.mT(), part(out_gradient));
    dk += at::matmul(ds.mT(), part(queries));
    dq.push_back((at::matmul(ds, k) * scale).transpose(0, 1).flatten(1));
    if (!tile) continue;
    const auto by_vector = tile->vector_gradient(ds);
    query_positions.push_back(-by_vector.sum(1));
    key_positions += by_vector.sum(0);
    strain.push_back(at::matmul(tile->vectors().mT(), by_vector));
  }
  const auto flat = [](const Tensor &x) { return x.transpose(0, 1).flatten(1); };
  BlockGradient result{at::cat(dq), flat(dk), flat(dv), {}, key_positions, {}};
  if (radial_) {
    result.query_positions = at::cat(query_positions);
    result.strain = at::cat(strain);
  }
  return result;
}

int64_t Attention::rows_of_tile(int64_t num_keys) const {
  const int64_t per_pair = radial_ ? std::max<int64_t>(heads_, 32) : heads_;
  return std::max<int64_t>(1, tile_elements / (per_pair * num_keys));
}

Tensor Attention::by_head(const Tensor &x) const {
  return x.view({x.size(0), heads_, x.size(1) / heads_}).transpose(0, 1);
}

Attended merge(const Attended &a, const Attended &b) {
  const auto lse = at::logaddexp(a.lse, b.lse);
  const auto weighted = [&](const Attended &part) {
    const auto weight = (part.lse - lse).exp_().unsqueeze(2);
    return (part.out.view({part.out.size(0), lse.size(1), part.out.size(1) / lse.size(1)}) * weight).flatten(1);
  };
  return {weighted(a) + weighted(b), lse};
}

Attended with_sink(const Attended &attended, const Tensor &sink) {
  const auto logits = sink.to(attended.lse.scalar_type()).expand_as(attended.lse);
  return merge(attended, {at::zeros_like(attended.out), logits});
}

}  // namespace uip
