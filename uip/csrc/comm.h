// Interface of the communication between ranks. The ops of this library (ops.cpp) contain no MPI: they call the
// `Comm` that is set, and act serially if none is.
//
// Rows: owned atoms first, then ghosts. Every rank calls every function, even with no rows of its own.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "export.h"

namespace uip {

/// The list of edges that `reverse_edges` acts on: all edges, or bonds (edges within the angle cutoff).
enum class Relation : int64_t { edges = 0, bonds = 1 };

/// Exchanges rows between ranks. Tensors are contiguous, float32 or float64, (rows, C), on the model's device.
class UIP_EXPORT Comm {
 public:
  virtual ~Comm() = default;

  /// Rows of owned atoms (N, C) to rows of owned atoms and ghosts (num_rows, C).
  virtual at::Tensor ghost_gather(const at::Tensor &x, int64_t num_rows) = 0;
  /// Adjoint: adds the rows of ghosts (R, C) to their owners' rows (num_owned, C).
  virtual at::Tensor ghost_reduce(const at::Tensor &x, int64_t num_owned) = 0;

  /// Row k of the result is the row of `x` of the opposite direction of edge k, on whichever rank owns its
  /// centre. `reverse`: the program's input `reverse_edge` or `reverse_bond`.
  virtual at::Tensor reverse_edges(const at::Tensor &x, const at::Tensor &reverse, Relation relation) = 0;

  /// Rows of this rank (N, C) to rows of all ranks in rank order (num_total, C).
  virtual at::Tensor all_gather(const at::Tensor &x, int64_t num_total) = 0;
  /// Adjoint: sums over ranks, each rank keeps its own rows (num_owned, C).
  virtual at::Tensor reduce_scatter(const at::Tensor &x, int64_t num_owned) = 0;

  /// int64 on the host: this rank; 1 if attention to the rows of all ranks passes blocks around the ring, 0 if it
  /// gathers `x`-like rows at once; then the number of rows of each rank. The second number is the same on all ranks.
  virtual at::Tensor rank_layout(const at::Tensor &x) = 0;
  /// Sends `x` to the next rank (the last one to the first); returns that of the previous rank, num_rows rows.
  virtual at::Tensor ring_shift(const at::Tensor &x, int64_t num_rows) = 0;
};

/// The Comm that ops of this thread's programs use; nullptr = serial.
UIP_EXPORT Comm *current_comm();

/// Sets the Comm for the life of this object, for this thread; restores the previous one, also when unwinding.
class UIP_EXPORT UseComm {
 public:
  explicit UseComm(Comm *comm);
  ~UseComm();
  UseComm(const UseComm &) = delete;
  UseComm &operator=(const UseComm &) = delete;

 private:
  Comm *previous_;
};

/// The Comm of a forward pass, kept for a backward pass that may run on another thread.
template <typename Context>
void remember_comm(Context *context) {
  context->saved_data["comm"] = static_cast<int64_t>(reinterpret_cast<intptr_t>(current_comm()));
}

template <typename Context>
Comm *remembered_comm(Context *context) {
  return reinterpret_cast<Comm *>(static_cast<intptr_t>(context->saved_data["comm"].toInt()));
}

}  // namespace uip
