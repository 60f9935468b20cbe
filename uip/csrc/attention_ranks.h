// Attention of this rank's atoms to the atoms of all ranks. Keys and values of other ranks come in one of two ways,
// chosen by the Comm (`rank_layout`):
//
//     gather   all at once (all_gather); gradients of keys return to their owners by reduce_scatter
//     ring     one rank's block at a time, passed to the next rank with its gradients (ring_shift)
//
// The backward pass gathers again; gathered keys are not kept.
#pragma once

#include <cstdint>
#include <vector>

#include "attention.h"

namespace uip {

/// Number of rows of each rank.
struct Layout {
  int64_t rank;
  bool ring;
  std::vector<int64_t> counts;

  /// That of the current Comm, for rows like those of `x`. Collective.
  explicit Layout(const at::Tensor &x);

  int64_t num_ranks() const { return static_cast<int64_t>(counts.size()); }
  int64_t total() const;
  /// The rank whose rows are here after `steps` shifts.
  int64_t owner(int64_t steps) const { return (rank - steps + num_ranks()) % num_ranks(); }
};

/// Arguments as of `Attention`; `own`: the keys of this rank.
Attended attend_ranks(const Attention &attention, const at::Tensor &q, const Keys &own, const Layout &layout);

/// Gradients of the same; those of keys' positions are within `query_positions`.
BlockGradient attend_ranks_backward(const Attention &attention, const at::Tensor &gradient, const at::Tensor &q,
                                    const Keys &own, const Attended &attended, const Layout &layout);

}  // namespace uip
