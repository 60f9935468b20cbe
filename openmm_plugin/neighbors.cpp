#include "neighbors.h"

#include <ATen/ATen.h>
#include <vesin.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>

namespace uip::openmm {
namespace {

double length(const Vector &v) { return std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]); }

at::Tensor matrix(const Matrix &cell) {
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
  HalfList(const std::vector<Vector> &positions, const std::optional<Matrix> &cell, double cutoff) {
    VesinOptions options{};
    options.cutoff = cutoff;
    options.n_threads = 1;
    options.return_shifts = true;
    const Matrix box = cell.value_or(Matrix{});
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

/// Numbers images as they are met.
class ImageNumbers {
 public:
  explicit ImageNumbers(std::vector<Image> &images) : images_(images) { images_.clear(); }

  int32_t operator()(const Image &image) {
    const auto [place, is_new] = numbers_.try_emplace(image, static_cast<int32_t>(images_.size()));
    if (is_new) images_.push_back(image);
    return place->second;
  }

 private:
  std::vector<Image> &images_;
  std::map<Image, int32_t> numbers_;
};

}  // namespace

NeighborSearch::NeighborSearch(double cutoff, double skin) : cutoff_(cutoff), skin_(skin) {}

/// Not if no pair outside the searched range can have come closer than the cutoff. With the deformation
/// F = built_cell^-1 cell and the residual displacements u, a pair that was r apart is now at least
/// sigma_min(F) r - 2 max|u| apart.
bool NeighborSearch::is_due(const std::vector<Vector> &positions, const std::optional<Matrix> &cell) const {
  check_finite(positions);
  if (skin_ <= 0.0 || num_searches_ == 0 || built_cell_.has_value() != cell.has_value()) return true;
  Matrix deformation = {Vector{1, 0, 0}, Vector{0, 1, 0}, Vector{0, 0, 1}};
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
  return shrink * (cutoff_ + skin_) - 2.0 * moved < cutoff_;
}

void NeighborSearch::search(const std::vector<Vector> &positions, const std::optional<Matrix> &cell, Pairs &pairs) {
  const HalfList half(positions, cell, cutoff_ + skin_);
  const size_t num_half = (*half).length;
  if (num_half > INT32_MAX / 2) {
    throw std::runtime_error("there must be fewer than 2^30 pairs within cutoff and skin, got " +
                             std::to_string(num_half) + "; use a smaller system or skin");
  }
  pairs.starts.assign(positions.size() + 1, 0);
  for (size_t p = 0; p < num_half; ++p) {
    for (const size_t centre : (*half).pairs[p]) ++pairs.starts[centre + 1];
  }
  std::partial_sum(pairs.starts.begin(), pairs.starts.end(), pairs.starts.begin());
  auto place = pairs.starts;  // where the next pair of a centre goes
  pairs.ends.resize(2 * num_half);
  pairs.partner.resize(2 * num_half);
  ImageNumbers number_of(pairs.images);
  for (size_t p = 0; p < num_half; ++p) {
    const auto i = static_cast<int32_t>((*half).pairs[p][0]), j = static_cast<int32_t>((*half).pairs[p][1]);
    const auto &s = (*half).shifts[p];
    const int64_t there = place[i]++, back = place[j]++;
    pairs.ends[there] = {j, number_of({s[0], s[1], s[2]})};
    pairs.ends[back] = {i, number_of({-s[0], -s[1], -s[2]})};
    pairs.partner[there] = static_cast<int32_t>(back);
    pairs.partner[back] = static_cast<int32_t>(there);
  }
  built_positions_ = positions;
  built_cell_ = cell;
  ++num_searches_;
}

}  // namespace uip::openmm
