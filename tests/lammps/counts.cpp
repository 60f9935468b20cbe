// Rows and bytes beyond 2^31, counted without a gigabyte at hand.
#include "counts.h"

#include <cstdlib>
#include <iostream>

namespace {

using namespace uip::lammps;

constexpr int64_t TOO_MANY = int64_t{1} << 33;
constexpr int BILLION = 1 << 30;

void check(bool holds, const char *what) {
  if (holds) return;
  std::cerr << "this must hold: " << what << "\n";
  std::exit(1);
}

template <typename Work>
std::string message_of(Work work) {
  try {
    work();
  } catch (const std::exception &cause) {
    return cause.what();
  }
  return "no message";
}

}  // namespace

int main() {
  const std::vector<int> counts = {BILLION, 0, BILLION, BILLION, 7};
  check(total(counts) == 3 * int64_t{BILLION} + 7, "sums of rows have 64 bits");
  check(offsets(counts) == std::vector<int64_t>{0, BILLION, BILLION, int64_t{2} * BILLION, int64_t{3} * BILLION},
        "rows begin beyond 2^31");
  check(int_offsets({BILLION, 5, 3}) == std::vector<int>{0, BILLION, BILLION + 5}, "few rows begin where they begin");
  check(as_count(INT_MAX, "rows") == INT_MAX, "2^31 - 1 is a count");
  check(message_of([] { as_count(TOO_MANY, "pairs"); }) ==
            "there must be fewer than 2^31 pairs, got 8589934592; use more ranks or a smaller system",
        "too many pairs are refused");
  check(message_of([] { as_count(-1, "pairs"); }) != "no message", "a number that has overflown is refused");
  check(message_of([&] { int_offsets(counts); }).find("rows on all ranks, got 3221225479") != std::string::npos,
        "too many rows on all ranks are refused");
  std::cout << "all holds\n";
}
