#include "radial.h"

#include <ATen/Functions.h>
#include <ATen/TensorIndexing.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_pinv.h>

#include <cmath>
#include <numbers>

namespace uip {
namespace {

using at::Tensor;

constexpr int64_t num_frequencies = 32;
constexpr double shortest = std::numbers::pi / 120.0, longest = 4.0 * std::numbers::pi;  // 1/A

Tensor frequencies(const Tensor &like) {
  return at::logspace(std::log10(shortest), std::log10(longest), num_frequencies, 10.0, like.options());
}

/// Lattice vectors along periodic directions, zero rows along open ones.
Tensor lattice_of(const Tensor &cell, const Tensor &pbc) { return cell * pbc.to(at::kDouble).unsqueeze(1); }

/// Shifts that take vectors (..., 3) to their shortest images.
Tensor nearest_images(const Tensor &vectors, const Radial &radial,
                      const std::vector<std::array<double, 3>> &candidates) {
  const auto lattice = lattice_of(radial.cell, radial.pbc);
  const auto inverse = at::linalg_pinv(lattice).to(vectors.options());
  const auto shift = at::matmul(at::round(at::matmul(vectors, inverse)), lattice.to(vectors.options())).neg_();
  auto best = shift, least = (vectors + shift).square_().sum(-1);
  for (const auto &[x, y, z] : candidates) {
    const auto moved = shift + at::tensor({x, y, z}, at::kDouble).to(vectors.options());
    const auto length = (vectors + moved).square_().sum(-1);
    const auto nearer = length < least;
    best = at::where(nearer.unsqueeze(-1), moved, best);
    least = at::where(nearer, length, least);
  }
  return best;
}

}  // namespace

std::vector<std::array<double, 3>> candidate_shifts(const Tensor &cell, const Tensor &pbc) {
  const auto lattice = lattice_of(cell, pbc).contiguous();
  const auto planes = at::linalg_pinv(lattice).norm(2, 0);  // 1 / distance between lattice planes
  const double total = lattice.norm(2, 1).sum().item<double>();
  int reach[3];
  for (int a = 0; a < 3; ++a) {
    const bool periodic = pbc[a].item<bool>();
    reach[a] = periodic ? static_cast<int>(std::floor(0.5 * total * planes[a].item<double>() + 0.5 + 1e-9)) : 0;
  }
  const auto rows = lattice.accessor<double, 2>();
  std::vector<std::array<double, 3>> shifts;
  for (int i = -reach[0]; i <= reach[0]; ++i) {
    for (int j = -reach[1]; j <= reach[1]; ++j) {
      for (int k = -reach[2]; k <= reach[2]; ++k) {
        std::array<double, 3> t{};
        for (int x = 0; x < 3; ++x) t[x] = i * rows[0][x] + j * rows[1][x] + k * rows[2][x];
        const double square = t[0] * t[0] + t[1] * t[1] + t[2] * t[2];
        double most = 0.0;
        for (int a = 0; a < 3; ++a) most += std::abs(rows[a][0] * t[0] + rows[a][1] * t[1] + rows[a][2] * t[2]);
        if (square > 0.0 && square < most * (1.0 - 1e-12)) shifts.push_back(t);
      }
    }
  }
  return shifts;
}

RadialTile::RadialTile(const Radial &radial, const std::vector<std::array<double, 3>> &shifts, const Tensor &from,
                       const Tensor &to)
    : weight_(radial.weight.to(from.scalar_type())),
      omega_(frequencies(from)),
      vectors_(to.unsqueeze(0) - from.unsqueeze(1)) {
  if (radial.pbc.any().item<bool>()) vectors_ = vectors_ + nearest_images(vectors_, radial, shifts);
  distance_ = vectors_.square().sum(2).clamp_min_(1e-12).sqrt_();
  const auto phase = distance_.unsqueeze(2) * omega_;
  kernel_ = at::matmul(at::where(phase < 1e-4, 1.0 - phase.square() / 6.0, at::sin(phase) / phase), weight_.t());
  bias_ = (at::softplus(kernel_) + 1e-6).log_().permute({2, 0, 1});
}

Tensor RadialTile::vector_gradient(const Tensor &bias_gradient) const {
  const auto kernel_gradient =
      bias_gradient.permute({1, 2, 0}) * at::sigmoid(kernel_) / (at::softplus(kernel_) + 1e-6);  // (Q, M, h)
  const auto phase = distance_.unsqueeze(2) * omega_;
  const auto slope = at::where(phase < 1e-4, phase / -3.0, (at::cos(phase) - at::sin(phase) / phase) / phase);
  const auto by_distance = (at::matmul(kernel_gradient, weight_ * omega_) * slope).sum(2);
  // at distance 0 (an atom and itself) the slope is 0, whatever the direction
  return vectors_ * (by_distance / distance_).unsqueeze(2);
}

}  // namespace uip
