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
Image image_of(const double *image, const std::array<double, 3> &atom, const Box &box) {
  Image cells;
  for (int k = 0; k < 3; ++k) {
    double fraction = 0.0;
    for (int m = 0; m < 3; ++m) fraction += (image[m] - atom[m]) * box.inverse[m][k];
    cells[k] = static_cast<int32_t>(std::lround(fraction));
  }
  return cells;
}

std::pair<int, int> owner_of(const Origin &origin) {
  return {static_cast<int>(origin.rank), static_cast<int>(origin.row)};
}

int centre_of(const Pairs &pairs, int64_t pair) {
  return static_cast<int>(std::upper_bound(pairs.starts.begin(), pairs.starts.end(), pair) - pairs.starts.begin()) - 1;
}

}  // namespace

AtomsToGraph::AtomsToGraph(const uip::Metadata &metadata, std::vector<int64_t> number_of_type, at::Device device,
                           MpiComm &comm)
    : metadata_(metadata), number_of_type_(std::move(number_of_type)), comm_(comm), assembler_(metadata, device) {}

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

void AtomsToGraph::rebuild(const Atoms &atoms, const FullLists &lists, const std::vector<Origin> &origins,
                           const Box &box) {
  find_ghosts(atoms, lists, origins, box);
  const auto atomic_numbers = share_rows(atoms);
  fill_pairs(assembler_.pairs(), lists, place_atoms(atoms.num_all), num_owned());
  as_count(assembler_.pairs().size(), "pairs within cutoff and skin on a rank");
  find_partners(assembler_.pairs());
  pair_with_ghosts();
  pair_with_ranks();
  assembler_.start_list(atomic_numbers);
}

/// The ghosts that are neighbours of atoms of this rank, and those of other ranks, each once.
void AtomsToGraph::find_ghosts(const Atoms &atoms, const FullLists &lists, const std::vector<Origin> &origins,
                               const Box &box) {
  std::vector<char> in_graph(atoms.num_all);
  std::transform(origins.begin(), origins.end(), in_graph.begin(),
                 [](const Origin &origin) { return origin.row >= 0; });
  const auto listed = listed_neighbors(lists, in_graph);
  ghosts_.clear();
  images_.clear();
  for (int j = atoms.num_owned; j < atoms.num_all; ++j) {
    if (listed[j] && origins[j].rank != comm_.rank()) ghosts_.push_back(owner_of(origins[j]));
  }
  std::sort(ghosts_.begin(), ghosts_.end());
  ghosts_.erase(std::unique(ghosts_.begin(), ghosts_.end()), ghosts_.end());
  for (int j = atoms.num_owned; j < atoms.num_all; ++j) {
    if (!listed[j]) continue;
    images_.push_back({j, row_of(owner_of(origins[j])), image_of(atoms.positions[j], origins[j].position, box)});
  }
}

/// Tells the other ranks which rows this rank uses, and gets their elements and ids. Collective.
at::Tensor AtomsToGraph::share_rows(const Atoms &atoms) {
  std::vector<int64_t> numbers, ids, wanted;
  for (const int i : owned_) numbers.push_back(number_of_type_[atoms.types[i]]);
  for (const int i : owned_) ids.push_back(atoms.ids.empty() ? 0 : atoms.ids[i]);
  std::vector<int> counts(comm_.num_ranks(), 0);
  for (const auto &[rank, row] : ghosts_) {
    wanted.push_back(row);
    ++counts[rank];
  }
  comm_.set_rows(num_owned(), to_tensor(wanted), counts);
  const auto atomic_numbers = comm_.ghost_gather(to_tensor(numbers), num_rows());
  ids_ = comm_.ghost_gather(to_tensor(ids), num_rows());
  return atomic_numbers;
}

/// The place of each atom of the engine; numbers the images and their opposites.
std::vector<Place> AtomsToGraph::place_atoms(int num_all) {
  auto &images = assembler_.pairs().images;
  images = {Image{0, 0, 0}};
  for (const auto &[atom, row, n] : images_) images.insert(images.end(), {n, Image{-n[0], -n[1], -n[2]}});
  std::sort(images.begin(), images.end());
  images.erase(std::unique(images.begin(), images.end()), images.end());
  std::vector<Place> places(num_all);
  for (int64_t row = 0; row < num_owned(); ++row) {
    places[owned_[row]] = {static_cast<int32_t>(row), find_image(images, {0, 0, 0})};
  }
  for (const auto &[atom, row, image] : images_) places[atom] = {row, find_image(images, image)};
  return places;
}

/// Lists the pairs with ghosts by rank, ascending.
void AtomsToGraph::pair_with_ghosts() {
  Pairs &pairs = assembler_.pairs();
  std::vector<std::pair<int, int32_t>> remote;  // rank, pair
  pairs.remote.clear();
  for (int64_t centre = 0; centre < num_owned(); ++centre) {
    for (int64_t pair = pairs.starts[centre + 1]; pair-- > pairs.starts[centre];) {  // ghosts are last
      const int64_t ghost = pairs.ends[pair].neighbor - num_owned();
      if (ghost < 0) break;
      remote.emplace_back(ghosts_[ghost].first, static_cast<int32_t>(pair));
    }
  }
  std::sort(remote.begin(), remote.end());
  sent_.clear();
  sent_to_.clear();
  for (const auto &[rank, pair] : remote) {
    sent_to_.push_back(rank);
    sent_.push_back(pair);
  }
  pairs.remote = sent_;
}

/// Exchanges these pairs with other ranks; those present on both sides are partners. Collective.
void AtomsToGraph::pair_with_ranks() {
  constexpr int columns = 5;  // centre, neighbour (both numbered by their owners), image
  Pairs &pairs = assembler_.pairs();
  std::vector<int> counts(comm_.num_ranks(), 0);
  auto keys = at::empty({static_cast<int64_t>(sent_.size()), columns}, at::kInt);
  int *key = keys.mutable_data_ptr<int>();
  for (size_t k = 0; k < sent_.size(); ++k, key += columns) {
    const auto [neighbor, image] = pairs.ends[sent_[k]];
    const auto &n = pairs.images[image];
    const int values[columns] = {centre_of(pairs, sent_[k]), ghosts_[neighbor - num_owned()].second, n[0], n[1], n[2]};
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
      const int32_t pair = find_opposite(rank, their_key);
      if (pair != Pairs::MISSING) pairs.partner[pair] = Pairs::REMOTE;
      received_.push_back(pair);
      received_from_.push_back(rank);
    }
  }
}

/// This rank's pair whose opposite another rank has as (centre, neighbour, image), numbered by their owners.
int32_t AtomsToGraph::find_opposite(int rank, const int *key) const {
  const int row = row_of({rank, key[0]});
  const int32_t image = find_image(assembler_.pairs().images, {-key[2], -key[3], -key[4]});
  return row < 0 || image < 0 ? Pairs::MISSING : find_pair(assembler_.pairs(), key[1], {row, image});
}

/// The row of an atom by its owner's number; -1: not on this rank.
int AtomsToGraph::row_of(const Owner &owner) const {
  if (owner.first == comm_.rank()) return owner.second;
  const auto place = std::lower_bound(ghosts_.begin(), ghosts_.end(), owner);
  if (place == ghosts_.end() || *place != owner) return -1;
  return static_cast<int>(num_owned() + (place - ghosts_.begin()));
}

double AtomsToGraph::memory_usage() const {
  const auto bytes = [](const auto &...lists) {
    return (static_cast<double>(lists.capacity() * sizeof(*lists.data())) + ...);
  };
  return bytes(images_, owned_, ghosts_, sent_, received_, sent_to_, received_from_, overlaps_) +
         assembler_.memory_usage() + 8.0 * static_cast<double>(num_rows());  // ids
}

at::Tensor AtomsToGraph::to_tensor(const std::vector<int64_t> &values) {
  return at::from_blob(const_cast<int64_t *>(values.data()), {static_cast<int64_t>(values.size())}, at::kLong).clone();
}

}  // namespace uip::lammps
