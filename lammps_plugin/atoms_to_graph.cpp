// SPDX-License-Identifier: GPL-2.0-only
#include "atoms_to_graph.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <stdexcept>

#include "schema.h"

namespace {

namespace schema = uip::schema;

constexpr double MIN_DISTANCE = 0.1;  // A, as in uip/neighbors.py

at::Tensor to_tensor(const std::vector<int64_t> &values) {
  return at::from_blob(const_cast<int64_t *>(values.data()), {static_cast<int64_t>(values.size())}, at::kLong).clone();
}

std::string text_of(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.6g", value);
  return text.data();
}

/// How many whole cells lie between an image of an atom and the atom itself.
std::array<int, 3> image_of(const double *image, const std::array<double, 3> &atom, const Box &box) {
  const double x = image[0] - atom[0], y = image[1] - atom[1], z = image[2] - atom[2];
  return {static_cast<int>(std::lround(box.inverse_xx * x + box.inverse_xy * y + box.inverse_xz * z)),
          static_cast<int>(std::lround(box.inverse_yy * y + box.inverse_yz * z)),
          static_cast<int>(std::lround(box.inverse_zz * z))};
}

/// r_j - r_i + image. Each operation gives the negative when i and j change places and the image its sign.
std::array<double, 3> vector_of(const double *i, const double *j, const std::array<int, 3> &n, const Box &box) {
  return {(j[0] - i[0]) + (n[0] * box.xx + n[1] * box.xy + n[2] * box.xz),
          (j[1] - i[1]) + (n[1] * box.yy + n[2] * box.yz), (j[2] - i[2]) + n[2] * box.zz};
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
    if (number_of_type_[atoms.types[i]] == 0) continue;
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

/// The atoms of other ranks that are somebody's neighbour here, each once.
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
  for (int k = 0; k < lists.num_centres; ++k) {
    const int i = lists.centres[k];
    if (origins[i].row < 0) continue;
    for (int m = 0; m < lists.counts[i]; ++m) {
      const int j = lists.neighbors[i][m] & lists.mask;
      if (origins[j].row < 0) continue;
      const int row = row_of({static_cast<int>(origins[j].rank), static_cast<int>(origins[j].row)});
      const Image image = image_of(atoms.positions[j], origins[j].position, box);
      candidates_.push_back({static_cast<int>(origins[i].row), row, image});
    }
  }
  std::sort(candidates_.begin(), candidates_.end());
}

/// Finds who holds the opposite direction of each candidate. One side may lack it, when the distance is that of the
/// list to the last digit: such a pair is left out on both sides (see `check_pair`).
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

/// Tells each partner which pairs this rank holds; what both hold is a pair.
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

/// The row of an atom by its owner's number; -1 if this rank does not see it.
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

at::Tensor AtomsToGraph::gather_positions(const double *const *positions) {
  auto rows = at::empty({num_owned(), 3}, at::kDouble);
  double *row = rows.mutable_data_ptr<double>();
  for (const int i : owned_) row = std::copy_n(positions[i], 3, row);
  return comm_.ghost_gather(rows, num_rows());
}

std::map<std::string, at::Tensor> AtomsToGraph::inputs(const at::Tensor &positions, const Box &box) {
  const double *x = positions.const_data_ptr<double>();
  check_positions(x);
  select_edges(x, box);
  const auto edge_vec = at::from_blob(edge_vec_.data(), {num_edges(), 3}, at::kDouble);
  std::map<std::string, at::Tensor> tensors;
  tensors[schema::atomic_numbers] = atomic_numbers_;
  tensors[schema::graph_index] = on_device(at::zeros({num_owned()}, at::kLong));
  tensors[schema::edge_index] = on_device(at::stack({to_tensor(edge_centre_), to_tensor(edge_neighbor_)}));
  const auto real = metadata_.dtype == "float32" ? at::kFloat : at::kDouble;
  tensors[schema::edge_vec] = on_device(edge_vec.to(real, /*non_blocking=*/false, /*copy=*/true));
  if (wants(schema::reverse_edge)) {
    tensors[schema::reverse_edge] = reverse_index(uip::Relation::edges, edge_number_, num_edges());
  }
  if (wants(schema::bond_index)) {
    find_angles();
    const auto num_bonds = static_cast<int64_t>(bond_index_.size());
    tensors[schema::bond_index] = on_device(to_tensor(bond_index_));
    tensors[schema::reverse_bond] = reverse_index(uip::Relation::bonds, bond_number_, num_bonds);
    tensors[schema::angle_index] = on_device(at::stack({to_tensor(first_bond_), to_tensor(second_bond_)}));
  }
  return tensors;
}

void AtomsToGraph::check_positions(const double *positions) const {
  for (int64_t k = 0; k < 3 * num_owned(); ++k) {
    if (std::isfinite(positions[k])) continue;
    throw std::runtime_error("positions must be finite, but atom " + std::to_string(id_of_row(k / 3)) + " is at " +
                             text_of(positions[k]) + "; the simulation has exploded, try a smaller time step");
  }
}

void AtomsToGraph::select_edges(const double *positions, const Box &box) {
  for (auto *list : {&edge_centre_, &edge_neighbor_, &bond_index_}) list->clear();
  edge_vec_.clear();
  edge_number_.assign(candidates_.size(), -1);
  bond_number_.assign(candidates_.size(), -1);
  for (size_t e = 0; e < candidates_.size(); ++e) {
    const auto &[centre, neighbor, image] = candidates_[e];
    const auto d = vector_of(positions + 3 * centre, positions + 3 * neighbor, image, box);
    const double distance = std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
    if (distance >= metadata_.cutoff) continue;
    check_pair(e, distance);
    if (distance < metadata_.bond_cutoff) {
      bond_number_[e] = static_cast<int64_t>(bond_index_.size());
      bond_index_.push_back(num_edges());
    }
    edge_number_[e] = num_edges();
    edge_centre_.push_back(centre);
    edge_neighbor_.push_back(neighbor);
    edge_vec_.insert(edge_vec_.end(), d.begin(), d.end());
  }
}

void AtomsToGraph::check_pair(size_t candidate, double distance) const {
  if (distance >= MIN_DISTANCE && partner_[candidate] != MISSING) return;
  const auto &[centre, neighbor, image] = candidates_[candidate];
  const std::string pair = "atoms " + std::to_string(id_of_row(centre)) + " and " +
                           std::to_string(id_of_row(neighbor)) + " are " + text_of(distance) + " A apart";
  if (distance < MIN_DISTANCE) {
    throw std::runtime_error("atoms must be at least " + text_of(MIN_DISTANCE) + " A apart, but " + pair +
                             "; remove duplicates, or minimise with another pair style first");
  }
  throw std::runtime_error("both atoms of a pair must have it in their neighbour list, but " + pair +
                           " and one of them has not; use a larger communication cutoff (comm_modify cutoff), a "
                           "larger skin, and no 'neigh_modify check no'");
}

/// Ordered pairs of different bonds of one centre; bonds are sorted by centre.
void AtomsToGraph::find_angles() {
  first_bond_.clear();
  second_bond_.clear();
  const auto num_bonds = static_cast<int64_t>(bond_index_.size());
  const auto centre = [&](int64_t bond) { return edge_centre_[bond_index_[bond]]; };
  for (int64_t begin = 0, end = 0; begin < num_bonds; begin = end) {
    while (end < num_bonds && centre(end) == centre(begin)) ++end;
    for (int64_t first = begin; first < end; ++first) {
      for (int64_t second = begin; second < end; ++second) {
        if (first == second) continue;
        first_bond_.push_back(first);
        second_bond_.push_back(second);
      }
    }
  }
}

/// For each edge (or bond) the row of its opposite direction: its number here or, for one held elsewhere, `count` +
/// its place among the rows that `MpiComm::reverse_edges` receives. `numbers` of the candidates, -1 = not in the list.
at::Tensor AtomsToGraph::reverse_index(uip::Relation relation, const std::vector<int64_t> &numbers, int64_t count) {
  std::vector<int64_t> reverse(count), rows;
  Route route{std::vector<int>(comm_.num_ranks(), 0), std::vector<int>(comm_.num_ranks(), 0)};
  for (size_t e = 0; e < candidates_.size(); ++e) {
    if (numbers[e] >= 0 && partner_[e] >= 0) reverse[numbers[e]] = numbers[partner_[e]];
  }
  for (size_t k = 0; k < sent_.size(); ++k) {
    if (numbers[sent_[k]] < 0) continue;
    rows.push_back(numbers[sent_[k]]);
    ++route.send[sent_to_[k]];
  }
  int64_t place = count;
  for (size_t k = 0; k < received_.size(); ++k) {
    if (received_[k] == MISSING || numbers[received_[k]] < 0) continue;
    reverse[numbers[received_[k]]] = place++;
    ++route.receive[received_from_[k]];
  }
  comm_.set_relation(relation, to_tensor(rows), std::move(route));
  return on_device(to_tensor(reverse));
}

bool AtomsToGraph::wants(const char *input) const {
  return std::find(metadata_.inputs.begin(), metadata_.inputs.end(), input) != metadata_.inputs.end();
}

at::Tensor AtomsToGraph::on_device(const at::Tensor &host) const { return host.to(device_); }
