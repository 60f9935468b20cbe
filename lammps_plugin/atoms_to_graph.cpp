// SPDX-License-Identifier: GPL-2.0-only
// The part of AtomsToGraph for a new neighbour list; that of each step is in atoms_to_graph_inputs.cpp.
#include "atoms_to_graph.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <cmath>

#include "counts.h"

namespace uip::lammps {
namespace {

/// Number of whole cells between an image of an atom and the atom itself.
std::array<int, 3> image_of(const double *image, const std::array<double, 3> &atom, const Box &box) {
  std::array<int, 3> cells;
  for (int k = 0; k < 3; ++k) {
    double fraction = 0.0;
    for (int m = 0; m < 3; ++m) fraction += (image[m] - atom[m]) * box.inverse[m][k];
    cells[k] = static_cast<int>(std::lround(fraction));
  }
  return cells;
}

std::array<int, 3> opposite(const std::array<int, 3> &image) { return {-image[0], -image[1], -image[2]}; }

}  // namespace

AtomsToGraph::AtomsToGraph(const uip::Metadata &metadata, std::vector<int64_t> number_of_type, at::Device device,
                           MpiComm &comm)
    : metadata_(metadata), number_of_type_(std::move(number_of_type)), device_(device), comm_(comm) {}

std::vector<Origin> AtomsToGraph::number_owned(const Atoms &atoms) {
  owned_.clear();
  std::vector<Origin> origins(atoms.num_all, {0, -1, {}});
  for (int i = 0; i < atoms.num_owned; ++i) {
    if (number_of_type_[atoms.types[i]] == 0 || (atoms.masks[i] & atoms.absent) != 0) continue;
    const double *x = atoms.positions[i];
    origins[i] = {static_cast<double>(comm_.rank()), static_cast<double>(num_owned()), {x[0], x[1], x[2]}};
    owned_.push_back(i);
  }
  return origins;
}

void AtomsToGraph::rebuild(const Atoms &atoms, const NeighborLists &lists, const std::vector<Origin> &origins,
                           const Box &box) {
  find_ghosts(lists, origins);
  std::vector<int64_t> numbers, ids, wanted;
  for (const int i : owned_) numbers.push_back(number_of_type_[atoms.types[i]]);
  for (const int i : owned_) ids.push_back(atoms.ids.empty() ? 0 : atoms.ids[i]);
  std::vector<int> counts(comm_.num_ranks(), 0);
  for (const auto &[rank, row] : ghosts_) {
    wanted.push_back(row);
    ++counts[rank];
  }
  comm_.set_rows(num_owned(), to_tensor(wanted), counts);
  atomic_numbers_ = on_device(comm_.ghost_gather(to_tensor(numbers), num_rows()));
  ids_ = comm_.ghost_gather(to_tensor(ids), num_rows());
  find_candidates(atoms, lists, origins, box);
  pair_candidates();
}

/// Atoms of other ranks that are neighbours of atoms of this rank, each once.
void AtomsToGraph::find_ghosts(const NeighborLists &lists, const std::vector<Origin> &origins) {
  ghosts_.clear();
  for (int k = 0; k < lists.num_centres; ++k) {
    const int i = lists.centres[k];
    if (origins[i].row < 0) continue;
    for (int m = 0; m < lists.counts[i]; ++m) {
      const Origin &origin = origins[lists.neighbors[i][m] & lists.mask];
      if (origin.row < 0 || origin.rank == comm_.rank()) continue;
      ghosts_.emplace_back(static_cast<int>(origin.rank), static_cast<int>(origin.row));
    }
  }
  std::sort(ghosts_.begin(), ghosts_.end());
  ghosts_.erase(std::unique(ghosts_.begin(), ghosts_.end()), ghosts_.end());
}

void AtomsToGraph::find_candidates(const Atoms &atoms, const NeighborLists &lists, const std::vector<Origin> &origins,
                                   const Box &box) {
  candidates_.clear();
  images_.clear();
  std::vector<bool> is_listed(atoms.num_all, false);
  for (int k = 0; k < lists.num_centres; ++k) {
    const int i = lists.centres[k];
    if (origins[i].row < 0) continue;
    for (int m = 0; m < lists.counts[i]; ++m) {
      const int j = lists.neighbors[i][m] & lists.mask;
      if (origins[j].row < 0) continue;
      const int row = row_of({static_cast<int>(origins[j].rank), static_cast<int>(origins[j].row)});
      const Image image = image_of(atoms.positions[j], origins[j].position, box);
      candidates_.push_back({static_cast<int>(origins[i].row), row, image});
      if (j >= atoms.num_owned && !is_listed[j]) images_.push_back({j, row, image});
      is_listed[j] = true;
    }
  }
  as_count(static_cast<int64_t>(candidates_.size()), "pairs within cutoff and skin on a rank");
  std::sort(candidates_.begin(), candidates_.end());
}

/// Finds the opposite direction of each candidate. One side may lack it, when the distance equals that of the list to
/// the last digit: such a pair has no partner on either side (see `check_pair`).
void AtomsToGraph::pair_candidates() {
  partner_.assign(candidates_.size(), MISSING);
  std::vector<std::pair<int, int>> remote;  // rank, candidate
  for (size_t e = 0; e < candidates_.size(); ++e) {
    const auto &[centre, neighbor, image] = candidates_[e];
    if (neighbor < num_owned()) {
      partner_[e] = find({neighbor, centre, opposite(image)});
    } else {
      remote.emplace_back(ghosts_[neighbor - num_owned()].first, static_cast<int>(e));
    }
  }
  std::sort(remote.begin(), remote.end());
  sent_.clear();
  sent_to_.clear();
  for (const auto &[rank, candidate] : remote) {
    sent_to_.push_back(rank);
    sent_.push_back(candidate);
  }
  pair_remote_candidates();
}

/// Exchanges the pairs with other ranks; those present on both sides are partners.
void AtomsToGraph::pair_remote_candidates() {
  constexpr int columns = 5;  // centre, neighbour (both numbered by their owners), image
  std::vector<int> counts(comm_.num_ranks(), 0);
  auto keys = at::empty({static_cast<int64_t>(sent_.size()), columns}, at::kInt);
  int *key = keys.mutable_data_ptr<int>();
  for (size_t k = 0; k < sent_.size(); ++k, key += columns) {
    const auto &[centre, neighbor, image] = candidates_[sent_[k]];
    const int values[columns] = {centre, ghosts_[neighbor - num_owned()].second, image[0], image[1], image[2]};
    std::copy_n(values, columns, key);
    ++counts[sent_to_[k]];
  }
  const Route route = comm_.route(counts);
  const auto theirs = comm_.exchange(keys, route);
  const int *their_key = theirs.const_data_ptr<int>();
  received_.clear();
  received_from_.clear();
  for (int rank = 0; rank < comm_.num_ranks(); ++rank) {
    for (int k = 0; k < route.receive[rank]; ++k, their_key += columns) {
      const int centre = row_of({rank, their_key[0]});
      const Candidate mine{their_key[1], centre, opposite({their_key[2], their_key[3], their_key[4]})};
      const int candidate = centre < 0 ? MISSING : find(mine);
      if (candidate != MISSING) partner_[candidate] = REMOTE;
      received_.push_back(candidate);
      received_from_.push_back(rank);
    }
  }
}

/// The row of an atom by its owner's number; -1: not on this rank.
int AtomsToGraph::row_of(const Owner &owner) const {
  if (owner.first == comm_.rank()) return owner.second;
  const auto place = std::lower_bound(ghosts_.begin(), ghosts_.end(), owner);
  if (place == ghosts_.end() || *place != owner) return -1;
  return static_cast<int>(num_owned() + (place - ghosts_.begin()));
}

int AtomsToGraph::find(const Candidate &candidate) const {
  const auto place = std::lower_bound(candidates_.begin(), candidates_.end(), candidate);
  return place == candidates_.end() || *place != candidate ? MISSING : static_cast<int>(place - candidates_.begin());
}

double AtomsToGraph::memory_usage() const {
  const auto bytes = [](const auto &...lists) {
    return (static_cast<double>(lists.capacity() * sizeof(*lists.data())) + ...);
  };
  return bytes(images_, owned_, ghosts_, candidates_, partner_, sent_, received_, sent_to_, received_from_) +
         bytes(edge_number_, bond_number_, edge_centre_, edge_neighbor_, bond_index_, first_bond_, second_bond_,
               overlaps_, edge_vec_, edge_distance_, nearest_edges_.items) +
         16.0 * static_cast<double>(num_rows());  // atomic numbers and ids
}

at::Tensor AtomsToGraph::to_tensor(const std::vector<int64_t> &values) {
  return at::from_blob(const_cast<int64_t *>(values.data()), {static_cast<int64_t>(values.size())}, at::kLong).clone();
}

at::Tensor AtomsToGraph::on_device(const at::Tensor &host) const { return host.to(device_); }

}  // namespace uip::lammps
