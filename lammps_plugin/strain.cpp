// SPDX-License-Identifier: GPL-2.0-only
// The part of AtomsToGraph for positions that are strained while the engine's box is not: `compute born/matrix numdiff`
// and `fix numdiff/virial` move owned atoms and ghosts by a homogeneous strain. A ghost is then
//
//     x_ghost = x_owner + n (cell + delta)
//
// with its whole cells n and one matrix `delta` for all ghosts of all ranks.
#include <ATen/Functions.h>
#include <ATen/ops/linalg_pinv.h>

#include <algorithm>
#include <cmath>

#include "atoms_to_graph.h"

namespace uip::lammps {
namespace {

// Relative to positions and box: above the rounding errors of the engine, below any strain of interest.
constexpr double TOLERANCE = 1e-12;

/// x_ghost - (x_owner + n cell).
std::array<double, 3> offset(const double *ghost, const double *owner, const Image &n, const Box &box) {
  const auto &[a, b, c] = box.cell;
  std::array<double, 3> result;
  for (int k = 0; k < 3; ++k) result[k] = ghost[k] - (owner[k] + (n[0] * a[k] + n[1] * b[k] + n[2] * c[k]));
  return result;
}

double length_of(const Box &box) {
  double length = 0.0;
  for (const auto &vector : box.cell) {
    for (const double component : vector) length += std::fabs(component);
  }
  return length;
}

/// The matrix `delta` with the least sum of squares of offset - n delta. `sums`: n (x) n, then n (x) offset. Rows of
/// directions without images are zero.
Matrix fit(const std::vector<double> &sums) {
  const auto square = at::tensor(at::ArrayRef<double>(sums).slice(0, 9), at::kDouble).view({3, 3});
  const auto mixed = at::tensor(at::ArrayRef<double>(sums).slice(9, 9), at::kDouble).view({3, 3});
  const auto delta = at::matmul(at::linalg_pinv(square, 1e-10), mixed).contiguous();
  Matrix result;
  for (int k = 0; k < 9; ++k) result[k / 3][k % 3] = delta.const_data_ptr<double>()[k];
  return result;
}

}  // namespace

bool AtomsToGraph::ghosts_match(const at::Tensor &positions, const double *const *engine_positions,
                                const Box &box) const {
  const double *rows = positions.const_data_ptr<double>();
  const double length = length_of(box);
  return std::all_of(images_.begin(), images_.end(), [&](const Ghost &ghost) {
    const double *x = engine_positions[ghost.atom], *owner = rows + 3 * ghost.row;
    const auto d = offset(x, owner, ghost.image, box);
    for (int k = 0; k < 3; ++k) {
      if (std::fabs(d[k]) > TOLERANCE * (length + std::fabs(x[k]) + std::fabs(owner[k]))) return false;
    }
    return true;
  });
}

Box AtomsToGraph::strained_box(const at::Tensor &positions, const double *const *engine_positions,
                               const Box &box) const {
  const double *rows = positions.const_data_ptr<double>();
  std::vector<double> sums(18, 0.0);
  for (const auto &[atom, row, image] : images_) {
    const auto d = offset(engine_positions[atom], rows + 3 * row, image, box);
    for (int k = 0; k < 9; ++k) {
      sums[k] += image[k / 3] * image[k % 3];
      sums[9 + k] += image[k / 3] * d[k % 3];
    }
  }
  const Matrix delta = fit(comm_.sum(sums));
  Box result = box;
  for (int k = 0; k < 9; ++k) result.cell[k / 3][k % 3] += delta[k / 3][k % 3];
  return result;
}

}  // namespace uip::lammps
