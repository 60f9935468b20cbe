// Assembler: sums over edges.
#include <ATen/Dispatch.h>
#include <ATen/Functions.h>

#include <algorithm>

#include "assembler.h"
#include "blocks.h"

namespace uip {
namespace {

/// The gradients as they are, on the host, for loops over their numbers.
at::Tensor on_host(const at::Tensor &edge_grad) { return edge_grad.cpu().contiguous(); }

/// sum -= vector (x) gradient, row by row.
template <typename Real>
void subtract_product(double *sum, const std::array<double, 3> &vector, const Real *gradient) {
  for (int k = 0; k < 9; ++k) sum[k] -= vector[k / 3] * static_cast<double>(gradient[k % 3]);
}

constexpr int64_t edges_per_block = 4096, most_blocks = 8;

}  // namespace

/// (R, width): `add(sums, centre, edge)` adds to the rows of the centre and of its neighbour. Edges are cut into blocks
/// of whole centres. Each block has sums of its own, and these are added in the order of blocks: neighbours are close
/// to their centre in memory, their opposite edges are not.
template <typename Add>
at::Tensor Assembler::sum_edges(int64_t width, const Add &add) const {
  const int64_t count = std::clamp<int64_t>(num_edges() / edges_per_block, 1, most_blocks), size = num_rows_ * width;
  double *sums = block_sums_.resize(count * size);
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      std::fill_n(sums + block * size, size, 0.0);
      const int64_t last = first_centre(block + 1, count);
      for (int64_t centre = first_centre(block, count); centre < last; ++centre) {
        for (int64_t edge = edge_starts_[centre]; edge < edge_starts_[centre + 1]; ++edge) {
          add(sums + block * size, centre, edge);
        }
      }
    }
  });
  auto total = at::empty({num_rows_, width}, at::kDouble);
  double *totals = total.mutable_data_ptr<double>();
  at::parallel_for(0, size, 1 << 14, [&](int64_t begin, int64_t end) {
    std::copy(sums + begin, sums + end, totals + begin);
    for (int64_t block = 1; block < count; ++block) {
      const double *__restrict from = sums + block * size;
      for (int64_t k = begin; k < end; ++k) totals[k] += from[k];
    }
  });
  return total;
}

/// Of one of `count` blocks with about as many edges each.
int64_t Assembler::first_centre(int64_t block, int64_t count) const {
  const auto begin = edge_starts_.begin(), end = begin + num_owned();
  return std::lower_bound(begin, end, block * num_edges() / count) - begin;
}

at::Tensor Assembler::forces(const at::Tensor &edge_grad) const {
  const auto host = on_host(edge_grad);
  return AT_DISPATCH_FLOATING_TYPES(host.scalar_type(), "forces", [&] {
    const scalar_t *gradients = host.const_data_ptr<scalar_t>();
    const int64_t *neighbors = edge_index_.data() + num_edges();
    return sum_edges(3, [=](double *sums, int64_t centre, int64_t edge) {
      for (int k = 0; k < 3; ++k) {
        const auto gradient = static_cast<double>(gradients[3 * edge + k]);
        sums[3 * centre + k] += gradient;
        sums[3 * neighbors[edge] + k] -= gradient;
      }
    });
  });
}

at::Tensor Assembler::virial_of_centres(const at::Tensor &edge_grad) const {
  const auto host = on_host(edge_grad);
  auto sums = at::zeros({num_owned(), 9}, at::kDouble);
  AT_DISPATCH_FLOATING_TYPES(host.scalar_type(), "virial", [&] {
    const scalar_t *gradients = host.const_data_ptr<scalar_t>();
    double *rows = sums.mutable_data_ptr<double>();
    for_blocks(num_owned(), [&](int64_t first, int64_t last) {
      for (int64_t centre = first; centre < last; ++centre) {
        for (int64_t edge = edge_starts_[centre]; edge < edge_starts_[centre + 1]; ++edge) {
          subtract_product(rows + 9 * centre, edge_vec(edge), gradients + 3 * edge);
        }
      }
    });
  });
  return sums;
}

at::Tensor Assembler::virial_of_neighbors(const at::Tensor &edge_grad) const {
  const auto host = on_host(edge_grad);
  return AT_DISPATCH_FLOATING_TYPES(host.scalar_type(), "virial", [&] {
    const scalar_t *gradients = host.const_data_ptr<scalar_t>();
    return sum_edges(9, [&](double *sums, int64_t, int64_t edge) {
      subtract_product(sums + 9 * edge_neighbor(edge), edge_vec(edge), gradients + 3 * edge);
    });
  });
}

}  // namespace uip
