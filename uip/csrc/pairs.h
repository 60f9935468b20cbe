// Pairs of atoms that may come within the cutoff before the next neighbour list, as the engines' plugins hand them to
// the Assembler. Rows: owned atoms first, then ghosts; a pair is its centre's row, its neighbour's row and an image.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "export.h"

namespace uip {

/// Whole cells a, b, c that are added to the neighbour.
using Image = std::array<int32_t, 3>;

/// Directed pairs, grouped by their centres.
struct Pairs {
  struct End {
    int32_t neighbor, image;  // a row, and an item of `images`
  };
  static constexpr int32_t MISSING = -1, REMOTE = -2;

  std::vector<int64_t> starts = {0};  // where the pairs of each centre begin, and their number at the end
  std::vector<End> ends;
  std::vector<int32_t> partner;  // the pair of the opposite direction; REMOTE: on another rank; MISSING: in no list
  std::vector<int32_t> remote;   // the pairs whose neighbour is a ghost, in any order
  std::vector<Image> images;

  int64_t num_centres() const { return static_cast<int64_t>(starts.size()) - 1; }
  int64_t size() const { return static_cast<int64_t>(ends.size()); }
};

/// An atom of an engine: its row, -1: not in the graph; and which image of that row it is.
struct Place {
  int32_t row = -1, image = 0;
};

/// Full neighbour lists of an engine: all neighbours of `num_centres` of its atoms.
struct FullLists {
  int num_centres;
  const int *centres, *counts;
  const int *const *neighbors;
  int mask;  // bits of a neighbour that are its index
};

/// Which of `num_atoms` atoms are neighbours of an atom that `in_graph` holds: 1, others 0.
UIP_EXPORT std::vector<char> listed_neighbors(const FullLists &lists, const std::vector<char> &in_graph);
/// Fills in `starts` and `ends` with the pairs of atoms that have rows, for `images` that ascend and hold the opposite
/// of each; the pairs of a centre ascend by neighbour and image.
UIP_EXPORT void fill_pairs(Pairs &pairs, const FullLists &lists, std::span<const Place> places, int64_t num_centres);
/// Then fills in `partner` for neighbours that are owned rows, MISSING for others. One side may lack a pair, when the
/// distance equals that of the list to the last digit: it has no partner on the other side.
UIP_EXPORT void find_partners(Pairs &pairs);
/// The number of a pair, MISSING: there is none. `ends` ascend.
UIP_EXPORT int32_t find_pair(const Pairs &pairs, int32_t centre, const Pairs::End &end);
/// The item of ascending images, -1: there is none.
UIP_EXPORT int32_t find_image(std::span<const Image> images, const Image &image);

}  // namespace uip
