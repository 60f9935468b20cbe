// SPDX-License-Identifier: GPL-2.0-only
// `uip::Comm` over MPI: rows are sent directly from the rank that owns them to the ranks that use them, each row
// once, for any pattern of LAMMPS (brick or tiled) and any number of images of an atom. All messages of the plugin
// are here, except the owners of ghost atoms, which LAMMPS itself sends (pair_uip_compute.cpp). Functions marked
// "collective" are called by all ranks, or none.
#pragma once

#include <ATen/core/Tensor.h>
#include <mpi.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "comm.h"
#include "devices.h"

namespace uip::lammps {

/// Number of rows sent to, and received from, each rank. Rows are ordered by rank, on both sides.
struct Route {
  std::vector<int> send, receive;

  Route reversed() const { return {receive, send}; }
};

class MpiComm final : public Comm {
 public:
  /// Duplicates `world`, which separates its messages from those of LAMMPS. Collective, and so is the destructor.
  explicit MpiComm(MPI_Comm world);
  ~MpiComm() override;
  MpiComm(const MpiComm &) = delete;
  MpiComm &operator=(const MpiComm &) = delete;

  int rank() const { return rank_; }
  int num_ranks() const { return num_ranks_; }
  /// This rank among those of its computer. Collective.
  NodePlace place_on_node() const;
  /// The text of the first rank of this computer. Collective.
  std::string text_of_first_on_node(const std::string &mine) const;
  /// Bytes and messages with rows that this rank has sent to others so far; gathering counts as one to each.
  int64_t bytes_sent() const { return bytes_sent_; }
  int64_t messages_sent() const { return messages_sent_; }

  /// The route of rows of which `send[p]` go to rank p. Collective.
  Route route(const std::vector<int> &send) const;
  /// Rows of any type and device along a route; the result: rows that the other ranks sent. Collective.
  at::Tensor exchange(const at::Tensor &rows, const Route &route);
  /// The text of the first rank that has one, on all ranks; "" if none has. Collective.
  std::string first_text(const std::string &mine) const;
  /// Which flags are set on any rank, and the text as of `first_text`. Collective.
  struct Flags {
    bool strained = false, overlap = false;
  };
  struct Agreement {
    std::string text;
    Flags any;
  };
  Agreement agree(const std::string &text, const Flags &flags) const;
  /// Sums over ranks, the same bits on all. Collective.
  std::vector<double> sum(const std::vector<double> &mine) const;
  /// The largest of each number. Collective.
  std::vector<double> max(const std::vector<double> &mine) const;
  /// The text of rank 0, on all ranks. Collective.
  std::string text_of_rank_0(const std::string &mine) const;

  /// This rank owns `num_owned` rows, and its ghosts are the rows `wanted` (int64, numbered by their
  /// owners), of which `counts[p]` belong to rank p. Collective.
  void set_rows(int64_t num_owned, const at::Tensor &wanted, const std::vector<int> &counts);
  /// `reverse_edges` sends the rows `rows` of its argument along `route`; received rows are numbered after its own
  /// rows in the argument `reverse`. Local.
  void set_relation(Relation relation, at::Tensor rows, Route route);

  at::Tensor ghost_gather(const at::Tensor &x, int64_t num_rows) override;
  at::Tensor ghost_reduce(const at::Tensor &x, int64_t num_owned) override;
  at::Tensor reverse_edges(const at::Tensor &x, const at::Tensor &reverse, Relation relation) override;
  at::Tensor all_gather(const at::Tensor &x, int64_t num_total) override;
  at::Tensor reduce_scatter(const at::Tensor &x, int64_t num_owned) override;
  at::Tensor rank_layout(const at::Tensor &x) override;
  at::Tensor ring_shift(const at::Tensor &x, int64_t num_rows) override;

  /// How attention over the atoms of all ranks gets their keys and values: all at once, one rank's after the other, or
  /// as an estimate of the memory decides.
  enum class Attention { automatic, gather, ring };
  void set_attention(Attention way) { attention_ = way; }

 private:
  /// Rows to be sent, and their route.
  struct Sending {
    at::Tensor rows = {};
    Route route = {};
  };

  void count_sent(int64_t bytes, int64_t messages);
  bool is_dropped(const char *what) const;
  void check_rows(const char *op, int64_t got, int64_t wanted) const;

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int num_ranks_ = 1;
  int64_t bytes_sent_ = 0, messages_sent_ = 0;
  int64_t num_owned_ = 0;
  int64_t num_ghosts_ = 0;
  std::vector<int> owned_counts_;
  Sending ghosts_;
  std::array<Sending, 2> relations_;
  Attention attention_ = Attention::automatic;
};

}  // namespace uip::lammps
