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

constexpr double REPULSION = 1e8;  // eV, far above energies of models

std::string six_digits(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.6g", value);
  return text.data();
}

}  // namespace

at::Tensor AtomsToGraph::gather_positions(const double *const *positions) {
  auto rows = at::empty({num_owned(), 3}, at::kDouble);
  double *row = rows.mutable_data_ptr<double>();
  for (const int i : owned_) row = std::copy_n(positions[i], 3, row);
  return comm_.ghost_gather(rows, num_rows());
}

void AtomsToGraph::find_edges(const at::Tensor &positions, const Box &box) {
  assembler_.find_edges(positions, box.cell);
  check_pairs();
  overlaps_ = assembler_.overlaps();
}

std::map<std::string, at::Tensor> AtomsToGraph::inputs(const Box &box, const ChargeAndSpin &state) {
  if (metadata_.soft || wants(schema::reverse_edge)) cross_ranks(Relation::edges);
  if (metadata_.soft) assembler_.find_soft_bonds(&comm_);
  if (wants(schema::bond_index)) cross_ranks(Relation::bonds);
  return assembler_.inputs(box.periodic, state);
}

void AtomsToGraph::check_positions(const at::Tensor &positions) const {
  const double *x = positions.const_data_ptr<double>();
  for (int64_t k = 0; k < 3 * num_rows(); ++k) {
    if (std::isfinite(x[k])) continue;
    throw std::runtime_error("positions must be finite, but atom " + std::to_string(id_of_row(k / 3)) + " is at " +
                             six_digits(x[k]) + "; the simulation has exploded, try a smaller time step");
  }
}

void AtomsToGraph::check_pairs() const {
  const int64_t edge = assembler_.edge_without_partner();
  if (edge < 0) return;
  throw std::runtime_error("both atoms of a pair must have it in their neighbour list, but " + pair_text(edge) +
                           " and one of them has not; use a larger communication cutoff (comm_modify cutoff), a "
                           "larger skin, and no 'neigh_modify check no'");
}

std::string AtomsToGraph::pair_text(int64_t edge) const {
  return "atoms " + std::to_string(id_of_row(assembler_.edge_centre(edge))) + " and " +
         std::to_string(id_of_row(assembler_.edge_neighbor(edge))) + " are " + six_digits(assembler_.distance(edge)) +
         " A apart";
}

std::string AtomsToGraph::overlap_text() const {
  if (overlaps_.empty()) return "";
  return "atoms must be at least " + six_digits(MIN_DISTANCE) + " A apart, but " + pair_text(overlaps_[0]) +
         "; remove duplicates, or minimise with another pair style first";
}

/// E = e (2 - r / r_min) for each pair, half of it for each direction.
std::map<std::string, at::Tensor> AtomsToGraph::repulsion() const {
  auto node_energy = at::zeros({num_owned()}, at::kDouble);
  auto edge_grad = at::zeros({assembler_.num_edges(), 3}, at::kDouble);
  double *energies = node_energy.mutable_data_ptr<double>(), *gradients = edge_grad.mutable_data_ptr<double>();
  for (const int64_t edge : overlaps_) {
    const double distance = assembler_.distance(edge);
    energies[assembler_.edge_centre(edge)] += 0.5 * REPULSION * (2.0 - distance / MIN_DISTANCE);
    if (distance == 0.0) continue;  // no direction
    for (int k = 0; k < 3; ++k) {
      gradients[3 * edge + k] = -0.5 * REPULSION / MIN_DISTANCE * assembler_.edge_vec(edge)[k] / distance;
    }
  }
  return {{schema::node_energy, node_energy}, {schema::edge_grad, edge_grad}};
}

/// Numbers the edges (or bonds) that cross ranks: the opposite of one is, after the rows of this rank, the row that
/// `MpiComm::reverse_edges` receives.
void AtomsToGraph::cross_ranks(Relation relation) {
  std::vector<int64_t> rows;
  Route route{std::vector<int>(comm_.num_ranks(), 0), std::vector<int>(comm_.num_ranks(), 0)};
  for (size_t k = 0; k < sent_.size(); ++k) {
    const int64_t number = assembler_.number(relation, sent_[k]);
    if (number < 0) continue;
    rows.push_back(number);
    ++route.send[sent_to_[k]];
  }
  int64_t place = assembler_.count(relation);
  for (size_t k = 0; k < received_.size(); ++k) {
    const int64_t number = received_[k] == Pairs::MISSING ? -1 : assembler_.number(relation, received_[k]);
    if (number < 0) continue;
    assembler_.set_reverse(relation, number, place++);
    ++route.receive[received_from_[k]];
  }
  comm_.set_relation(relation, to_tensor(rows), std::move(route));
}

bool AtomsToGraph::wants(const char *input) const {
  return std::find(metadata_.inputs.begin(), metadata_.inputs.end(), input) != metadata_.inputs.end();
}

}  // namespace uip::lammps
