// Assembler: bonds, angles, and the inputs of a program.
#include <ATen/Functions.h>

#include <algorithm>
#include <cstring>

#include "assembler.h"
#include "blocks.h"
#include "schema.h"

namespace uip {
namespace {

at::Tensor tensor_of(const Matrix &cell) {
  const auto &[a, b, c] = cell;
  return at::tensor({a[0], a[1], a[2], b[0], b[1], b[2], c[0], c[1], c[2]}, at::kDouble).view({1, 3, 3});
}

at::Tensor tensor_of(const std::array<bool, 3> &flags) {
  const auto row = at::empty({1, 3}, at::kBool);
  std::copy(flags.begin(), flags.end(), row.mutable_data_ptr<bool>());
  return row;
}

at::Tensor tensor_of(const PaddedRows &rows) {
  return at::from_blob(const_cast<int64_t *>(rows.items.data()), {rows.num_rows, rows.width}, at::kLong);
}

}  // namespace

bool Assembler::wants(const char *input) const {
  return std::find(metadata_.inputs.begin(), metadata_.inputs.end(), input) != metadata_.inputs.end();
}

/// The rank of an edge among those of its neighbour comes from the rank that has them.
void Assembler::find_soft_bonds(Comm *comm) {
  const auto &soft = *metadata_.soft;
  const std::span<const double> distances(distances_.data(), num_edges());
  nearest_edges_ = nearest_edges(edge_starts_, distances, soft);
  auto ranks = soft_ranks(distances, nearest_edges_, soft);
  const auto mine = at::from_blob(ranks.data(), {num_edges(), 1}, at::kDouble);
  const auto reverse = reverse_edge_.view({num_edges()});
  const auto theirs = comm ? comm->reverse_edges(mine, reverse, Relation::edges) : mine.index_select(0, reverse);
  const double *reverse_ranks = theirs.const_data_ptr<double>();
  for_blocks(num_owned(), [&](int64_t first, int64_t last) {
    for (int64_t edge = edge_starts_[first]; edge < edge_starts_[last]; ++edge) {
      is_bond_.data()[edge] = is_bond(ranks[edge], reverse_ranks[edge], distances[edge], soft);
    }
  });
  find_bonds();
}

/// Numbers the bonds; angles are ordered pairs of different bonds of one centre, none for soft nearest neighbours.
void Assembler::find_bonds() {
  bond_starts_.assign(num_owned() + 1, 0);
  angle_starts_.assign(num_owned() + 1, 0);
  for_blocks(num_owned(), [&](int64_t first, int64_t last) {
    for (int64_t centre = first; centre < last; ++centre) {
      const bool *flags = is_bond_.data();
      const int64_t count = std::count(flags + edge_starts_[centre], flags + edge_starts_[centre + 1], true);
      bond_starts_[centre + 1] = count;
      angle_starts_[centre + 1] = metadata_.soft ? 0 : count * (count - 1);
    }
  });
  add_up(bond_starts_);
  add_up(angle_starts_);
  edge_bond_.resize(num_edges());
  bond_index_.resize(num_bonds());
  angle_index_.resize(2 * num_angles());
  for_blocks(num_owned(), [&](int64_t first, int64_t last) {
    for (int64_t centre = first; centre < last; ++centre) write_bonds(centre);
  });
  int64_t *reverse = reverse_bond_.resize(num_bonds());
  for_blocks(num_owned(), [&](int64_t first, int64_t last) {
    for (int64_t bond = bond_starts_[first]; bond < bond_starts_[last]; ++bond) {
      const int32_t partner = pairs_.partner[edge_pair_.data()[bond_index_.data()[bond]]];
      reverse[bond] = partner >= 0 ? edge_bond_.data()[pair_edge_.data()[partner]] : num_bonds();
    }
  });
}

void Assembler::write_bonds(int64_t centre) {
  const bool *flags = is_bond_.data(), *end = flags + edge_starts_[centre + 1];
  int64_t bond = bond_starts_[centre];
  const auto next = [end](const bool *flag) { return static_cast<const bool *>(std::memchr(flag, 1, end - flag)); };
  for (const bool *flag = next(flags + edge_starts_[centre]); flag != nullptr; flag = next(flag + 1)) {
    const int64_t edge = flag - flags;
    edge_bond_.data()[edge] = static_cast<int32_t>(bond);
    bond_index_.data()[bond++] = edge;
  }
  if (!metadata_.soft) write_angles(centre);
}

void Assembler::write_angles(int64_t centre) {
  const int64_t begin = bond_starts_[centre], end = bond_starts_[centre + 1];
  int64_t *firsts = angle_index_.data() + angle_starts_[centre], *seconds = firsts + num_angles();
  for (int64_t first = begin; first < end; ++first) {
    for (int64_t second = begin; second < end; ++second) {
      if (first == second) continue;
      *firsts++ = first;
      *seconds++ = second;
    }
  }
}

std::map<std::string, at::Tensor> Assembler::inputs(const std::array<bool, 3> &periodic,
                                                    const ChargeAndSpin &state) const {
  std::map<std::string, at::Tensor> tensors;
  if (wants_bonds_) tensors = bond_inputs();
  tensors[schema::atomic_numbers] = atomic_numbers_;
  tensors[schema::graph_index] = graph_index_;
  tensors[schema::edge_index] = on_device(edge_index_.view({2, num_edges()}));
  const std::array<int64_t, 2> shape = {num_edges(), 3};
  tensors[schema::edge_vec] = on_device(is_single_ ? single_vectors_.view(shape) : vectors_.view(shape));
  if (wants(schema::reverse_edge)) tensors[schema::reverse_edge] = on_device(reverse_edge_.view({num_edges()}));
  if (wants(schema::shifts)) tensors[schema::shifts] = on_device(shifts());
  tensors[schema::charge] = on_device(at::full({1}, state.charge, at::kLong));
  tensors[schema::spin] = on_device(at::full({1}, state.spin, at::kLong));
  if (!wants(schema::positions)) return tensors;
  tensors[schema::positions] = real_on_device(positions_.narrow(0, 0, num_owned()));
  tensors[schema::cell] = real_on_device(tensor_of(cell_));
  tensors[schema::pbc] = on_device(tensor_of(periodic));
  return tensors;
}

std::map<std::string, at::Tensor> Assembler::bond_inputs() const {
  std::map<std::string, at::Tensor> tensors;
  tensors[schema::bond_index] = on_device(bond_index_.view({num_bonds()}));
  tensors[schema::reverse_bond] = on_device(reverse_bond_.view({num_bonds()}));
  tensors[schema::angle_index] = on_device(angle_index_.view({2, num_angles()}));
  if (!metadata_.soft) return tensors;
  tensors[schema::nearest_edges] = on_device(tensor_of(nearest_edges_).clone());
  tensors[schema::bond_slots] = on_device(tensor_of(numbers_by_centre(bond_starts_)).clone());
  return tensors;
}

at::Tensor Assembler::shifts() const {
  auto rows = at::empty({num_edges(), 3}, at::kLong);
  int64_t *row = rows.mutable_data_ptr<int64_t>();
  for (int64_t edge = 0; edge < num_edges(); ++edge) {
    const auto &image = pairs_.images[pairs_.ends[edge_pair_.data()[edge]].image];
    row = std::copy(image.begin(), image.end(), row);
  }
  return rows;
}

at::Tensor Assembler::on_device(const at::Tensor &host) const { return host.to(device_); }

/// A copy, in the program's precision.
at::Tensor Assembler::real_on_device(const at::Tensor &host) const {
  return on_device(host.to(is_single_ ? at::kFloat : at::kDouble, /*non_blocking=*/false, /*copy=*/true));
}

}  // namespace uip
