#include "neighbors.h"

#include <ATen/ATen.h>
#include <vesin.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <string>

namespace uip::openmm {
namespace {

std::string text_of(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.3g", value);
  return text.data();
}

double length(const Vector &v) { return std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]); }

/// r_j - r_i + shift @ cell; exactly antisymmetric.
Vector vector_of(const Vector &i, const Vector &j, const std::array<int32_t, 3> &shift, const Cell &cell) {
  Vector d;
  for (int k = 0; k < 3; ++k) {
    d[k] = (j[k] - i[k]) + (shift[0] * cell[0][k] + shift[1] * cell[1][k] + shift[2] * cell[2][k]);
  }
  return d;
}

at::Tensor matrix(const Cell &cell) {
  return at::from_blob(const_cast<double *>(cell[0].data()), {3, 3}, at::kDouble).clone();
}

void check_finite(const std::vector<Vector> &positions) {
  for (size_t row = 0; row < positions.size(); ++row) {
    const Vector &r = positions[row];
    if (std::isfinite(r[0]) && std::isfinite(r[1]) && std::isfinite(r[2])) continue;
    throw std::runtime_error("positions must be finite, but atom " + std::to_string(row) +
                             " has NaN or infinity; the simulation has exploded, minimise first or try a smaller "
                             "time step");
  }
}

/// vesin's list, which the destructor frees.
class HalfList {
 public:
  HalfList(const std::vector<Vector> &positions, const std::optional<Cell> &cell, double cutoff) {
    VesinOptions options{};
    options.cutoff = cutoff;
    options.n_threads = 1;
    options.return_shifts = true;
    const Cell box = cell.value_or(Cell{});
    const bool open[3] = {false, false, false}, periodic[3] = {true, true, true};
    const char *message = nullptr;
    const int status = vesin_neighbors(reinterpret_cast<const double (*)[3]>(positions.data()), positions.size(),
                                       reinterpret_cast<const double (*)[3]>(box.data()), cell ? periodic : open,
                                       {VesinCPU, 0}, options, &list_, &message);
    if (status == 0) return;
    const std::string cause = message == nullptr ? "unknown cause" : message;
    vesin_free(&list_);
    throw std::runtime_error("the search for neighbours failed: " + cause);
  }
  ~HalfList() { vesin_free(&list_); }
  HalfList(const HalfList &) = delete;
  HalfList &operator=(const HalfList &) = delete;

  const VesinNeighborList &operator*() const { return list_; }

 private:
  VesinNeighborList list_;
};

}  // namespace

NeighborList::NeighborList(double cutoff, double bond_cutoff, std::optional<SoftNearest> soft, double skin)
    : cutoff_(cutoff), bond_cutoff_(bond_cutoff), soft_(soft), skin_(skin) {}

const Graph &NeighborList::build(const std::vector<Vector> &positions, const std::optional<Cell> &cell) {
  check_finite(positions);
  if (!still_valid(positions, cell)) search(positions, cell);
  select_edges(positions, cell);
  return graph_;
}

/// Whether no pair outside the searched range can have come closer than the cutoff. With the deformation
/// F = built_cell^-1 cell and the residual displacements u, a pair that was r apart is now at least
/// sigma_min(F) r - 2 max|u| apart.
bool NeighborList::still_valid(const std::vector<Vector> &positions, const std::optional<Cell> &cell) const {
  if (skin_ <= 0.0 || num_searches_ == 0 || built_cell_.has_value() != cell.has_value()) return false;
  Cell deformation = {Vector{1, 0, 0}, Vector{0, 1, 0}, Vector{0, 0, 1}};
  double shrink = 1.0;
  if (cell && *cell != *built_cell_) {
    const auto f = at::linalg_solve(matrix(*built_cell_), matrix(*cell)).contiguous();
    for (int k = 0; k < 9; ++k) deformation[k / 3][k % 3] = f.const_data_ptr<double>()[k];
    shrink = at::linalg_svdvals(f).min().item<double>();
  }
  double moved = 0.0;
  for (size_t row = 0; row < positions.size(); ++row) {
    const Vector &r = built_positions_[row];
    Vector u;
    for (int k = 0; k < 3; ++k) {
      u[k] = positions[row][k] - (r[0] * deformation[0][k] + r[1] * deformation[1][k] + r[2] * deformation[2][k]);
    }
    moved = std::max(moved, length(u));
  }
  return shrink * (cutoff_ + skin_) - 2.0 * moved >= cutoff_;
}

void NeighborList::search(const std::vector<Vector> &positions, const std::optional<Cell> &cell) {
  const HalfList half(positions, cell, cutoff_ + skin_);
  const size_t num_half = (*half).length;
  std::vector<int64_t> place(positions.size() + 1, 0);  // where the next pair of a centre goes
  for (size_t p = 0; p < num_half; ++p) {
    for (const size_t centre : (*half).pairs[p]) ++place[centre + 1];
  }
  for (size_t row = 0; row < positions.size(); ++row) place[row + 1] += place[row];
  pairs_.resize(2 * num_half);
  for (size_t p = 0; p < num_half; ++p) {
    const auto i = static_cast<int64_t>((*half).pairs[p][0]), j = static_cast<int64_t>((*half).pairs[p][1]);
    const auto &s = (*half).shifts[p];
    const int64_t there = place[i]++, back = place[j]++;
    pairs_[there] = {i, j, {s[0], s[1], s[2]}, back};
    pairs_[back] = {j, i, {-s[0], -s[1], -s[2]}, there};
  }
  built_positions_ = positions;
  built_cell_ = cell;
  ++num_searches_;
}

void NeighborList::select_edges(const std::vector<Vector> &positions, const std::optional<Cell> &cell) {
  const Cell box = cell.value_or(Cell{});
  std::vector<int64_t> neighbors, kept;
  std::vector<double> distances;
  graph_ = Graph{};
  edge_of_pair_.assign(pairs_.size(), -1);
  for (size_t p = 0; p < pairs_.size(); ++p) {
    const auto &[centre, neighbor, shift, reverse] = pairs_[p];
    const Vector d = vector_of(positions[centre], positions[neighbor], shift, box);
    const double distance = length(d);
    if (distance >= cutoff_) continue;
    if (distance < MIN_DISTANCE) {
      throw std::runtime_error("atoms must be at least " + text_of(MIN_DISTANCE) + " A apart, but atoms " +
                               std::to_string(centre) + " and " + std::to_string(neighbor) + " are " +
                               text_of(distance) + " A apart; remove duplicates or check box and units");
    }
    edge_of_pair_[p] = static_cast<int64_t>(kept.size());
    kept.push_back(static_cast<int64_t>(p));
    distances.push_back(distance);
    graph_.edge_index.push_back(centre);
    neighbors.push_back(neighbor);
    graph_.shifts.insert(graph_.shifts.end(), shift.begin(), shift.end());
    graph_.edge_vec.insert(graph_.edge_vec.end(), d.begin(), d.end());
  }
  graph_.edge_index.insert(graph_.edge_index.end(), neighbors.begin(), neighbors.end());
  for (const int64_t p : kept) graph_.reverse_edge.push_back(edge_of_pair_[pairs_[p].reverse]);
  if (soft_) {
    select_bonds(soft_bonds(distances, static_cast<int64_t>(positions.size())));
  } else {
    select_bonds(short_edges(distances));
    find_angles();
  }
}

std::vector<bool> NeighborList::short_edges(const std::vector<double> &distances) const {
  std::vector<bool> are_short;
  for (const double distance : distances) are_short.push_back(distance < bond_cutoff_);
  return are_short;
}

/// Which edges are bonds; fills in their rows.
std::vector<bool> NeighborList::soft_bonds(const std::vector<double> &distances, int64_t num_atoms) {
  const auto centres = std::span<const int64_t>(graph_.edge_index).first(distances.size());
  graph_.nearest_edges = nearest_edges(centres, distances, num_atoms, *soft_);
  const auto ranks = soft_ranks(distances, graph_.nearest_edges, *soft_);
  std::vector<bool> are_bonds;
  std::vector<int64_t> bond_centres;
  for (size_t e = 0; e < distances.size(); ++e) {
    are_bonds.push_back(is_bond(ranks[e], ranks[graph_.reverse_edge[e]], distances[e], *soft_));
    if (are_bonds[e]) bond_centres.push_back(centres[e]);
  }
  graph_.bond_slots = numbers_by_centre(bond_centres, num_atoms);
  return are_bonds;
}

void NeighborList::select_bonds(const std::vector<bool> &are_bonds) {
  std::vector<int64_t> bond_of_edge(are_bonds.size(), -1);
  for (size_t e = 0; e < are_bonds.size(); ++e) {
    if (!are_bonds[e]) continue;
    bond_of_edge[e] = graph_.num_bonds();
    graph_.bond_index.push_back(static_cast<int64_t>(e));
  }
  for (const int64_t e : graph_.bond_index) graph_.reverse_bond.push_back(bond_of_edge[graph_.reverse_edge[e]]);
}

/// Ordered pairs of different bonds of one centre; bonds are sorted by centre.
void NeighborList::find_angles() {
  std::vector<int64_t> second_bonds;
  const int64_t num_bonds = graph_.num_bonds();
  const auto centre = [&](int64_t bond) { return graph_.centre(graph_.bond_index[bond]); };
  for (int64_t begin = 0, end = 0; begin < num_bonds; begin = end) {
    while (end < num_bonds && centre(end) == centre(begin)) ++end;
    for (int64_t first = begin; first < end; ++first) {
      for (int64_t second = begin; second < end; ++second) {
        if (first == second) continue;
        graph_.angle_index.push_back(first);
        second_bonds.push_back(second);
      }
    }
  }
  graph_.angle_index.insert(graph_.angle_index.end(), second_bonds.begin(), second_bonds.end());
}

}  // namespace uip::openmm
