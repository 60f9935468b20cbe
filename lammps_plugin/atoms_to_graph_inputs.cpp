// SPDX-License-Identifier: GPL-2.0-only
// AtomsToGraph, each step: edges, bonds, angles and input tensors. For new neighbour lists: atoms_to_graph.cpp.
#include <ATen/Functions.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>

#include "atoms_to_graph.h"
#include "schema.h"

namespace uip::lammps {
namespace {

constexpr double MIN_DISTANCE = 0.1;  // A, as in uip/graph/structure.py
constexpr double REPULSION = 1e8;     // eV, far above energies of models

at::Tensor cell_of(const Box &box) {
  const auto &[a, b, c] = box.cell;
  return at::tensor({a[0], a[1], a[2], b[0], b[1], b[2], c[0], c[1], c[2]}, at::kDouble).view({1, 3, 3});
}

at::Tensor periodicity_of(const Box &box) {
  const auto flags = at::empty({1, 3}, at::kBool);
  std::copy(box.periodic.begin(), box.periodic.end(), flags.mutable_data_ptr<bool>());
  return flags;
}

std::string text_of(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.6g", value);
  return text.data();
}

/// r_j - r_i + image. Exactly antisymmetric: exchanging i and j and the sign of the image changes the sign alone.
std::array<double, 3> vector_of(const double *i, const double *j, const std::array<int, 3> &n, const Box &box) {
  const auto &[a, b, c] = box.cell;
  std::array<double, 3> vector;
  for (int k = 0; k < 3; ++k) vector[k] = (j[k] - i[k]) + (n[0] * a[k] + n[1] * b[k] + n[2] * c[k]);
  return vector;
}

}  // namespace

at::Tensor AtomsToGraph::gather_positions(const double *const *positions) {
  auto rows = at::empty({num_owned(), 3}, at::kDouble);
  double *row = rows.mutable_data_ptr<double>();
  for (const int i : owned_) row = std::copy_n(positions[i], 3, row);
  return comm_.ghost_gather(rows, num_rows());
}

void AtomsToGraph::find_edges(const at::Tensor &positions, const Box &box) {
  const double *x = positions.const_data_ptr<double>();
  select_edges(x, box);
  if (metadata_.soft || !wants(schema::bond_index)) return;
  find_short_bonds();
  find_angles();
}

std::map<std::string, at::Tensor> AtomsToGraph::inputs(const at::Tensor &positions, const Box &box,
                                                       const ChargeAndSpin &state) {
  if (metadata_.soft) find_soft_bonds();
  std::map<std::string, at::Tensor> tensors;
  tensors[schema::atomic_numbers] = atomic_numbers_;
  tensors[schema::graph_index] = on_device(at::zeros({num_owned()}, at::kLong));
  tensors[schema::edge_index] = on_device(at::stack({to_tensor(edge_centre_), to_tensor(edge_neighbor_)}));
  tensors[schema::edge_vec] = real_on_device(at::from_blob(edge_vec_.data(), {num_edges(), 3}, at::kDouble));
  if (wants(schema::reverse_edge)) {
    tensors[schema::reverse_edge] = on_device(reverse_index(Relation::edges, edge_number_, num_edges()));
  }
  if (wants(schema::bond_index)) {
    const auto num_bonds = static_cast<int64_t>(bond_index_.size());
    tensors[schema::bond_index] = on_device(to_tensor(bond_index_));
    tensors[schema::reverse_bond] = on_device(reverse_index(Relation::bonds, bond_number_, num_bonds));
    tensors[schema::angle_index] = on_device(at::stack({to_tensor(first_bond_), to_tensor(second_bond_)}));
  }
  if (metadata_.soft) {
    tensors[schema::nearest_edges] = on_device(rows_to_tensor(nearest_edges_));
    tensors[schema::bond_slots] = on_device(rows_to_tensor(bond_slots()));
  }
  tensors[schema::charge] = on_device(at::full({1}, state.charge, at::kLong));
  tensors[schema::spin] = on_device(at::full({1}, state.spin, at::kLong));
  if (wants(schema::positions)) {
    tensors[schema::positions] = real_on_device(positions.narrow(0, 0, num_owned()));
    tensors[schema::cell] = real_on_device(cell_of(box));
    tensors[schema::pbc] = on_device(periodicity_of(box));
  }
  return tensors;
}

void AtomsToGraph::check_positions(const at::Tensor &positions) const {
  const double *x = positions.const_data_ptr<double>();
  for (int64_t k = 0; k < 3 * num_rows(); ++k) {
    if (std::isfinite(x[k])) continue;
    throw std::runtime_error("positions must be finite, but atom " + std::to_string(id_of_row(k / 3)) + " is at " +
                             text_of(x[k]) + "; the simulation has exploded, try a smaller time step");
  }
}

void AtomsToGraph::select_edges(const double *positions, const Box &box) {
  for (auto *list : {&edge_centre_, &edge_neighbor_, &bond_index_, &overlaps_}) list->clear();
  for (auto *list : {&edge_vec_, &edge_distance_}) list->clear();
  edge_number_.assign(candidates_.size(), -1);
  bond_number_.assign(candidates_.size(), -1);
  for (size_t e = 0; e < candidates_.size(); ++e) {
    const auto &[centre, neighbor, image] = candidates_[e];
    const auto d = vector_of(positions + 3 * centre, positions + 3 * neighbor, image, box);
    const double distance = std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
    if (distance >= metadata_.cutoff) continue;
    check_pair(e, distance);
    if (distance < MIN_DISTANCE) overlaps_.push_back(num_edges());
    edge_number_[e] = num_edges();
    edge_centre_.push_back(centre);
    edge_neighbor_.push_back(neighbor);
    edge_vec_.insert(edge_vec_.end(), d.begin(), d.end());
    edge_distance_.push_back(distance);
  }
}

void AtomsToGraph::check_pair(size_t candidate, double distance) const {
  if (partner_[candidate] != MISSING) return;
  const auto &[centre, neighbor, image] = candidates_[candidate];
  throw std::runtime_error("both atoms of a pair must have it in their neighbour list, but " +
                           pair_text(centre, neighbor, distance) +
                           " and one of them has not; use a larger communication cutoff (comm_modify cutoff), a "
                           "larger skin, and no 'neigh_modify check no'");
}

std::string AtomsToGraph::pair_text(int64_t centre, int64_t neighbor, double distance) const {
  return "atoms " + std::to_string(id_of_row(centre)) + " and " + std::to_string(id_of_row(neighbor)) + " are " +
         text_of(distance) + " A apart";
}

std::string AtomsToGraph::overlap_text() const {
  if (overlaps_.empty()) return "";
  const int64_t edge = overlaps_[0];
  return "atoms must be at least " + text_of(MIN_DISTANCE) + " A apart, but " +
         pair_text(edge_centre_[edge], edge_neighbor_[edge], edge_distance_[edge]) +
         "; remove duplicates, or minimise with another pair style first";
}

/// E = e (2 - r / r_min) for each pair, half of it for each direction.
std::map<std::string, at::Tensor> AtomsToGraph::repulsion() const {
  auto node_energy = at::zeros({num_owned()}, at::kDouble), edge_grad = at::zeros({num_edges(), 3}, at::kDouble);
  double *energies = node_energy.mutable_data_ptr<double>(), *gradients = edge_grad.mutable_data_ptr<double>();
  for (const int64_t edge : overlaps_) {
    const double distance = edge_distance_[edge];
    energies[edge_centre_[edge]] += 0.5 * REPULSION * (2.0 - distance / MIN_DISTANCE);
    if (distance == 0.0) continue;  // no direction
    for (int k = 0; k < 3; ++k) {
      gradients[3 * edge + k] = -0.5 * REPULSION / MIN_DISTANCE * edge_vec(edge)[k] / distance;
    }
  }
  return {{schema::node_energy, node_energy}, {schema::edge_grad, edge_grad}};
}

void AtomsToGraph::add_bond(size_t candidate) {
  bond_number_[candidate] = static_cast<int64_t>(bond_index_.size());
  bond_index_.push_back(edge_number_[candidate]);
}

void AtomsToGraph::find_short_bonds() {
  for (size_t e = 0; e < candidates_.size(); ++e) {
    if (edge_number_[e] >= 0 && edge_distance_[edge_number_[e]] < metadata_.bond_cutoff) add_bond(e);
  }
}

/// Bonds are edges to soft nearest neighbours; the neighbour rank of an edge's reverse comes from its owner.
/// Collective.
void AtomsToGraph::find_soft_bonds() {
  const auto &soft = *metadata_.soft;
  nearest_edges_ = nearest_edges(edge_centre_, edge_distance_, num_owned(), soft);
  auto ranks = soft_ranks(edge_distance_, nearest_edges_, soft);
  const auto reverse = reverse_index(Relation::edges, edge_number_, num_edges());
  const auto rows = at::from_blob(ranks.data(), {num_edges(), 1}, at::kDouble);
  const auto theirs = comm_.reverse_edges(rows, reverse, Relation::edges);
  const double *reverse_ranks = theirs.const_data_ptr<double>();
  for (size_t e = 0; e < candidates_.size(); ++e) {
    const auto edge = edge_number_[e];
    if (edge >= 0 && is_bond(ranks[edge], reverse_ranks[edge], edge_distance_[edge], soft)) add_bond(e);
  }
}

PaddedRows AtomsToGraph::bond_slots() const {
  std::vector<int64_t> centres;
  for (const int64_t edge : bond_index_) centres.push_back(edge_centre_[edge]);
  return numbers_by_centre(centres, num_owned());
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

/// For each edge (or bond) the row of its opposite direction: its number on this rank or, on another rank, `count` +
/// its place among the rows that `MpiComm::reverse_edges` receives. `numbers`: of the candidates, -1: not in the list.
at::Tensor AtomsToGraph::reverse_index(Relation relation, const std::vector<int64_t> &numbers, int64_t count) {
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
  return to_tensor(reverse);
}

at::Tensor AtomsToGraph::rows_to_tensor(const PaddedRows &rows) {
  return to_tensor(rows.items).view({rows.num_rows, rows.width});
}

bool AtomsToGraph::wants(const char *input) const {
  return std::find(metadata_.inputs.begin(), metadata_.inputs.end(), input) != metadata_.inputs.end();
}

/// A copy, in the program's precision.
at::Tensor AtomsToGraph::real_on_device(const at::Tensor &host) const {
  const auto real = metadata_.dtype == "float32" ? at::kFloat : at::kDouble;
  return on_device(host.to(real, /*non_blocking=*/false, /*copy=*/true));
}

}  // namespace uip::lammps
