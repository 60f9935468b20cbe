#include "pairs.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "blocks.h"

namespace uip {
namespace {

constexpr int64_t GRAIN = 512;  // centres: below it threads cost more than they save

/// Orders pairs of one centre.
uint64_t sort_key(const Pairs::End &end) {
  return static_cast<uint64_t>(end.neighbor) << 32 | static_cast<uint32_t>(end.image);
}

bool before(const Pairs::End &a, const Pairs::End &b) { return sort_key(a) < sort_key(b); }

/// Calls `work(part, centre, neighbour)` for all pairs of atoms of the lists, parts of the lists in parallel.
template <typename Work>
void for_pairs(const FullLists &lists, int64_t num_parts, const Work &work) {
  at::parallel_for(0, num_parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      const int64_t begin = lists.num_centres * part / num_parts, end = lists.num_centres * (part + 1) / num_parts;
      for (int64_t k = begin; k < end; ++k) {
        const int centre = lists.centres[k];
        for (int m = 0; m < lists.counts[centre]; ++m) work(part, centre, lists.neighbors[centre][m] & lists.mask);
      }
    }
  });
}

int64_t parts_of(const FullLists &lists) {
  return std::clamp<int64_t>(lists.num_centres / GRAIN, 1, at::get_num_threads());
}

/// The item of each image's opposite, -1: there is none.
std::vector<int32_t> opposites(const std::vector<Image> &images) {
  std::vector<int32_t> result;
  for (const auto &[a, b, c] : images) result.push_back(find_image(images, {-a, -b, -c}));
  return result;
}

/// Sorts rows with ghosts, or with several images of a neighbour: others are sorted.
void sort_rows(Pairs &pairs) {
  for_blocks(pairs.num_centres(), [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const auto begin = pairs.ends.begin() + pairs.starts[row], end = pairs.ends.begin() + pairs.starts[row + 1];
      if (!std::is_sorted(begin, end, before)) std::sort(begin, end, before);
    }
  });
}

/// The first pair of each row whose neighbour is not below `centre`.
std::vector<int64_t> places_from(const Pairs &pairs, int32_t centre) {
  std::vector<int64_t> places(pairs.num_centres());
  for (int64_t row = 0; row < pairs.num_centres(); ++row) {
    const auto first = pairs.ends.begin() + pairs.starts[row], last = pairs.ends.begin() + pairs.starts[row + 1];
    places[row] = std::lower_bound(first, last, Pairs::End{centre, 0}, before) - pairs.ends.begin();
  }
  return places;
}

/// Finds the partners of the pairs `begin` .. `end` of a centre with one neighbour from `place` on in the neighbour's
/// row; returns where the next centre looks. Of several images the last has the first partner.
int64_t find_partners_of(Pairs &pairs, int32_t centre, int64_t begin, int64_t end, int64_t place,
                         const std::vector<int32_t> &opposite) {
  const int64_t last = pairs.starts[pairs.ends[begin].neighbor + 1];
  for (int64_t pair = end; pair-- > begin;) {
    const Pairs::End wanted{centre, opposite[pairs.ends[pair].image]};
    while (place < last && before(pairs.ends[place], wanted)) ++place;
    const bool found = place < last && !before(wanted, pairs.ends[place]);
    pairs.partner[pair] = found ? static_cast<int32_t>(place++) : Pairs::MISSING;
  }
  return place;
}

}  // namespace

std::vector<char> listed_neighbors(const FullLists &lists, const std::vector<char> &in_graph) {
  std::vector<char> listed(in_graph.size(), 0);
  for_pairs(lists, parts_of(lists), [&](int64_t, int centre, int neighbor) {  // threads write the same value
    if (in_graph[centre] && in_graph[neighbor]) std::atomic_ref(listed[neighbor]).store(1, std::memory_order_relaxed);
  });
  return listed;
}

/// Each pair of owned rows is written into the neighbour's row, as the opposite direction: since centres ascend, the
/// neighbours of that row ascend without being sorted. A pair with a ghost is written into its centre's row.
void fill_pairs(Pairs &pairs, const FullLists &lists, std::span<const Place> places, int64_t num_centres) {
  const auto opposite = opposites(pairs.images);
  const int64_t num_parts = parts_of(lists);
  std::vector<std::vector<int64_t>> next(num_parts, std::vector<int64_t>(num_centres, 0));  // of each part and row
  for_pairs(lists, num_parts, [&](int64_t part, int centre, int neighbor) {
    const Place i = places[centre], j = places[neighbor];
    if (i.row >= 0 && j.row >= 0) ++next[part][j.row < num_centres ? j.row : i.row];
  });
  pairs.starts.assign(num_centres + 1, 0);
  for (int64_t row = 0, place = 0; row < num_centres; ++row) {
    for (auto &places_of_part : next) place += std::exchange(places_of_part[row], place);
    pairs.starts[row + 1] = place;
  }
  pairs.ends.resize(pairs.starts.back());
  for_pairs(lists, num_parts, [&](int64_t part, int centre, int neighbor) {
    const Place i = places[centre], j = places[neighbor];
    if (i.row < 0 || j.row < 0) return;
    if (j.row < num_centres) {
      pairs.ends[next[part][j.row]++] = {i.row, opposite[j.image]};
    } else {
      pairs.ends[next[part][i.row]++] = {j.row, j.image};
    }
  });
  sort_rows(pairs);
}

/// The neighbours of a row ascend, as do the centres that look for partners in it: each thread keeps its place in
/// every row.
void find_partners(Pairs &pairs) {
  const auto opposite = opposites(pairs.images);
  pairs.partner.resize(pairs.size());
  at::parallel_for(0, pairs.num_centres(), GRAIN, [&](int64_t first, int64_t last) {
    auto places = places_from(pairs, static_cast<int32_t>(first));
    for (int64_t centre = first; centre < last; ++centre) {
      const int64_t end = pairs.starts[centre + 1];
      int64_t pair = pairs.starts[centre];
      while (pair < end && pairs.ends[pair].neighbor < pairs.num_centres()) {
        const int32_t neighbor = pairs.ends[pair].neighbor;
        int64_t next = pair + 1;  // after all images of the neighbour
        while (next < end && pairs.ends[next].neighbor == neighbor) ++next;
        int64_t &place = places[neighbor];
        place = find_partners_of(pairs, static_cast<int32_t>(centre), pair, next, place, opposite);
        pair = next;
      }
      std::fill(pairs.partner.begin() + pair, pairs.partner.begin() + end, Pairs::MISSING);  // ghosts
    }
  });
}

int32_t find_pair(const Pairs &pairs, int32_t centre, const Pairs::End &end) {
  const auto first = pairs.ends.begin() + pairs.starts[centre], last = pairs.ends.begin() + pairs.starts[centre + 1];
  const auto place = std::lower_bound(first, last, end, before);
  return place == last || before(end, *place) ? Pairs::MISSING : static_cast<int32_t>(place - pairs.ends.begin());
}

int32_t find_image(std::span<const Image> images, const Image &image) {
  const auto place = std::lower_bound(images.begin(), images.end(), image);
  return place == images.end() || *place != image ? -1 : static_cast<int32_t>(place - images.begin());
}

}  // namespace uip
