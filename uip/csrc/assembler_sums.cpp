// Assembler: sums over edges.
#include <ATen/Dispatch.h>
#include <ATen/Functions.h>

#include "assembler.h"
#include "blocks.h"

namespace uip {
namespace {

/// The gradients as they are, on the host, for loops over their numbers.
at::Tensor on_host(const at::Tensor &edge_grad) { return edge_grad.cpu().contiguous(); }

/// sum += factor * vector (x) gradient, row by row.
template <typename Real>
void add_product(double *sum, double factor, const std::array<double, 3> &vector, const Real *gradient) {
  for (int k = 0; k < 9; ++k) sum[k] += factor * vector[k / 3] * static_cast<double>(gradient[k % 3]);
}

}  // namespace

/// (R, width): for each edge `own(sum, edge)` adds to the row of the centre, and `opposite(sum, edge)` to that of the
/// neighbour. A neighbour on this rank is the centre of the opposite edge, and collects by itself.
template <typename Own, typename Opposite>
at::Tensor Assembler::sum_edges(int64_t width, const Own &own, const Opposite &opposite) const {
  auto sums = at::zeros({num_rows_, width}, at::kDouble);
  double *rows = sums.mutable_data_ptr<double>();
  const int32_t *edge_pair = edge_pair_.data(), *pair_edge = pair_edge_.data(), *partner = pairs_.partner.data();
  for_blocks(num_owned(), [&](int64_t first, int64_t last) {
    for (int64_t centre = first; centre < last; ++centre) {
      for (int64_t edge = edge_starts_[centre]; edge < edge_starts_[centre + 1]; ++edge) {
        own(rows + width * centre, edge);
        const int32_t other = partner[edge_pair[edge]];
        if (other >= 0) opposite(rows + width * centre, pair_edge[other]);
      }
    }
  });
  for (const int32_t pair : pairs_.remote) {
    const int64_t edge = pair_edge[pair];
    if (edge >= 0) opposite(rows + width * pairs_.ends[pair].neighbor, edge);
  }
  return sums;
}

at::Tensor Assembler::forces(const at::Tensor &edge_grad) const {
  const auto host = on_host(edge_grad);
  return AT_DISPATCH_FLOATING_TYPES(host.scalar_type(), "forces", [&] {
    const scalar_t *gradients = host.const_data_ptr<scalar_t>();
    const auto add = [&](double *sum, int64_t edge) {
      for (int k = 0; k < 3; ++k) sum[k] += static_cast<double>(gradients[3 * edge + k]);
    };
    const auto subtract = [&](double *sum, int64_t edge) {
      for (int k = 0; k < 3; ++k) sum[k] -= static_cast<double>(gradients[3 * edge + k]);
    };
    return sum_edges(3, add, subtract);
  });
}

at::Tensor Assembler::virial_of_centres(const at::Tensor &edge_grad) const {
  const auto host = on_host(edge_grad);
  return AT_DISPATCH_FLOATING_TYPES(host.scalar_type(), "virial", [&] {
    const scalar_t *gradients = host.const_data_ptr<scalar_t>();
    const auto add = [&](double *sum, int64_t edge) { add_product(sum, -1.0, edge_vec(edge), gradients + 3 * edge); };
    return sum_edges(9, add, [](double *, int64_t) {}).narrow(0, 0, num_owned());
  });
}

at::Tensor Assembler::virial_of_neighbors(const at::Tensor &edge_grad) const {
  const auto host = on_host(edge_grad);
  return AT_DISPATCH_FLOATING_TYPES(host.scalar_type(), "virial", [&] {
    const scalar_t *gradients = host.const_data_ptr<scalar_t>();
    const auto add = [&](double *sum, int64_t edge) { add_product(sum, -1.0, edge_vec(edge), gradients + 3 * edge); };
    return sum_edges(9, [](double *, int64_t) {}, add);
  });
}

}  // namespace uip
