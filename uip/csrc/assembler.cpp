// Assembler: the edges of a step. Bonds and inputs are in assembler_inputs.cpp, sums in assembler_sums.cpp.
#include "assembler.h"

#include <atomic>
#include <cmath>

#include "blocks.h"
#include "schema.h"

namespace uip {
namespace {

/// The least number whose root is not below `limit`: a distance is below it if its square is below this.
double square_of(double limit) {
  double square = limit * limit;
  while (square > 0.0 && std::sqrt(square) >= limit) square = std::nextafter(square, 0.0);
  while (std::sqrt(square) < limit) square = std::nextafter(square, INFINITY);
  return square;
}

double square(const std::array<double, 3> &d) { return d[0] * d[0] + d[1] * d[1] + d[2] * d[2]; }

}  // namespace

Assembler::Assembler(const Metadata &metadata, at::Device device)
    : metadata_(metadata),
      device_(device),
      is_single_(metadata.dtype == "float32"),
      wants_bonds_(wants(schema::bond_index)),
      square_cutoff_(square_of(metadata.cutoff)),
      square_bond_cutoff_(square_of(metadata.bond_cutoff)) {}

void Assembler::start_list(const at::Tensor &atomic_numbers) {
  num_rows_ = atomic_numbers.size(0);
  atomic_numbers_ = on_device(atomic_numbers);
  graph_index_ = on_device(at::zeros({num_owned()}, at::kLong));
}

void Assembler::find_edges(const at::Tensor &positions, const Matrix &cell) {
  positions_ = positions;
  cell_ = cell;
  place_images(cell);
  geometry_ = {pairs_.ends.data(), positions.const_data_ptr<double>(), shifts_.data()};
  select_pairs();
  if (is_single_) {
    write_edges(single_vectors_);
  } else {
    write_edges(vectors_);
  }
  if (metadata_.soft || wants(schema::reverse_edge)) link_edges();
  if (wants_bonds_ && !metadata_.soft) find_bonds();
}

void Assembler::place_images(const Matrix &cell) {
  const auto &[a, b, c] = cell;
  shifts_.resize(pairs_.images.size());
  for (size_t k = 0; k < shifts_.size(); ++k) {
    const auto &n = pairs_.images[k];
    for (int m = 0; m < 3; ++m) shifts_[k][m] = n[0] * a[m] + n[1] * b[m] + n[2] * c[m];
  }
}

/// Each block of centres writes its edges' pairs where its pairs begin.
void Assembler::select_pairs() {
  int32_t *kept = kept_.resize(pairs_.size());
  edge_starts_.assign(num_owned() + 1, 0);
  for_blocks(num_owned(), [&](int64_t first, int64_t last) {
    const Geometry geometry = geometry_;
    const double limit = square_cutoff_;
    int32_t *place = kept + pairs_.starts[first];
    for (int64_t centre = first; centre < last; ++centre) {
      const int32_t *begin = place;
      for (int64_t pair = pairs_.starts[centre]; pair < pairs_.starts[centre + 1]; ++pair) {
        *place = static_cast<int32_t>(pair);  // without a branch: near the cutoff none can be foreseen
        place += square(geometry.vector(centre, pair)) < limit;
      }
      edge_starts_[centre + 1] = place - begin;
    }
  });
  add_up(edge_starts_);
}

template <typename Real>
void Assembler::write_edges(Buffer<Real> &vectors) {
  vectors.resize(3 * num_edges());
  edge_index_.resize(2 * num_edges());
  edge_pair_.resize(num_edges());
  pair_edge_.resize(pairs_.size());
  is_bond_.resize(num_edges());
  distances_.resize(metadata_.soft ? num_edges() : 0);
  for (const int32_t pair : pairs_.remote) pair_edge_.data()[pair] = -1;
  std::atomic<bool> has_overlap = false, lacks_partner = false;
  for_blocks(num_owned(), [&](int64_t first, int64_t last) {
    const Found found = write_block(first, last, vectors.data());
    if (found.overlap) has_overlap = true;
    if (found.no_partner) lacks_partner = true;
  });
  has_overlap_ = has_overlap;
  lacks_partner_ = lacks_partner;
}

/// The edges of a block of centres.
template <typename Real>
Assembler::Found Assembler::write_block(int64_t first, int64_t last, Real *vectors) {
  const Geometry geometry = geometry_;
  const double bond_limit = square_bond_cutoff_, overlap_limit = square_of(MIN_DISTANCE);
  const int32_t *kept = kept_.data() + pairs_.starts[first], *partner = pairs_.partner.data();
  int64_t *centres = edge_index_.data(), *neighbors = centres + num_edges();
  int32_t *edge_pair = edge_pair_.data(), *pair_edge = pair_edge_.data();
  bool *is_bond = is_bond_.data();
  double *distances = distances_.size() > 0 ? distances_.data() : nullptr;
  Found found;
  for (int64_t centre = first; centre < last; ++centre) {
    for (int64_t edge = edge_starts_[centre]; edge < edge_starts_[centre + 1]; ++edge) {
      const int32_t pair = *kept++;
      const auto d = geometry.vector(centre, pair);
      const double d2 = square(d);
      centres[edge] = centre;
      neighbors[edge] = geometry.ends[pair].neighbor;
      for (int k = 0; k < 3; ++k) vectors[3 * edge + k] = static_cast<Real>(d[k]);
      edge_pair[edge] = pair;
      pair_edge[pair] = static_cast<int32_t>(edge);
      is_bond[edge] = d2 < bond_limit;
      if (distances) distances[edge] = std::sqrt(d2);
      found.overlap |= d2 < overlap_limit;
      found.no_partner |= partner[pair] == Pairs::MISSING;
    }
  }
  return found;
}

/// Opposites on this rank; those on other ranks are set later.
void Assembler::link_edges() {
  int64_t *reverse = reverse_edge_.resize(num_edges());
  for_blocks(num_owned(), [&](int64_t first, int64_t last) {
    for (int64_t edge = edge_starts_[first]; edge < edge_starts_[last]; ++edge) {
      const int32_t partner = pairs_.partner[edge_pair_.data()[edge]];
      reverse[edge] = partner >= 0 ? pair_edge_.data()[partner] : num_edges();
    }
  });
}

std::array<double, 3> Assembler::edge_vec(int64_t edge) const {
  return geometry_.vector(edge_centre(edge), edge_pair_.data()[edge]);
}

double Assembler::distance(int64_t edge) const { return std::sqrt(square(edge_vec(edge))); }

int64_t Assembler::edge_without_partner() const {
  int64_t edge = lacks_partner_ ? 0 : -1;
  while (edge >= 0 && pairs_.partner[edge_pair_.data()[edge]] != Pairs::MISSING) ++edge;
  return edge;
}

std::vector<int64_t> Assembler::overlaps() const {
  std::vector<int64_t> edges;
  for (int64_t edge = 0; has_overlap_ && edge < num_edges(); ++edge) {
    if (distance(edge) < MIN_DISTANCE) edges.push_back(edge);
  }
  return edges;
}

int64_t Assembler::number(Relation relation, int32_t pair) const {
  const int32_t edge = pair_edge_.data()[pair];
  if (relation == Relation::edges || edge < 0) return edge;
  return is_bond_.data()[edge] ? edge_bond_.data()[edge] : -1;
}

void Assembler::set_reverse(Relation relation, int64_t number, int64_t row) {
  (relation == Relation::edges ? reverse_edge_ : reverse_bond_).data()[number] = row;
}

double Assembler::memory_usage() const {
  const auto bytes = [](const auto &...lists) {
    return (static_cast<double>(lists.capacity() * sizeof(*lists.data())) + ...);
  };
  const auto of_buffers = [](const auto &...buffers) { return (buffers.bytes() + ...); };
  return bytes(pairs_.starts, pairs_.ends, pairs_.partner, pairs_.remote, pairs_.images, shifts_, edge_starts_,
               bond_starts_, angle_starts_, nearest_edges_.items) +
         of_buffers(kept_, edge_pair_, pair_edge_, edge_bond_, is_bond_, distances_, vectors_, single_vectors_,
                    edge_index_, reverse_edge_, bond_index_, reverse_bond_, angle_index_, block_sums_) +
         8.0 * static_cast<double>(num_rows_ + num_owned());
}

}  // namespace uip
