// Chooses among the kernels of messages and of rows of tokens when the first is asked for.
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>
#include <type_traits>

#include "gated_message.h"
#include "row_kernels.h"

namespace uip {
namespace {

enum Level : int { generic, avx2, avx512 };
constexpr std::array<const char *, 3> level_names{"generic", "avx2", "avx512"};

// CMakeLists.txt compiles the other levels for the same processors.
int best_of_processor() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return generic;
  for (const bool present : {__builtin_cpu_supports("avx512f") != 0, __builtin_cpu_supports("avx512bw") != 0,
                             __builtin_cpu_supports("avx512dq") != 0, __builtin_cpu_supports("avx512vl") != 0}) {
    if (!present) return avx2;
  }
  return avx512;
#else
  return generic;
#endif
}

int asked_for() {
  const char *asked = std::getenv("UIP_CPU_KERNELS");
  if (asked == nullptr || *asked == '\0') return avx512;
  for (size_t level = 0; level < level_names.size(); ++level) {
    if (level_names[level] == std::string(asked)) return static_cast<int>(level);
  }
  TORCH_CHECK(false, "UIP_CPU_KERNELS must be generic, avx2 or avx512, got '", asked, "'");
}

int level() {
  static const int chosen = std::min(best_of_processor(), asked_for());
  return chosen;
}

template <typename T>
struct KernelSet {
  const MessageKernels<T> &messages;
  const RowKernels<T> &rows;
};

template <typename T>
KernelSet<T> kernels_of(int level) {
#if defined(__x86_64__)
  if constexpr (std::is_same_v<T, float>) {
    if (level == avx512) return {kernels_avx512::of_float, kernels_avx512::rows_float};
    if (level == avx2) return {kernels_avx2::of_float, kernels_avx2::rows_float};
  } else {
    if (level == avx512) return {kernels_avx512::of_double, kernels_avx512::rows_double};
    if (level == avx2) return {kernels_avx2::of_double, kernels_avx2::rows_double};
  }
#else
  static_cast<void>(level);
#endif
  if constexpr (std::is_same_v<T, float>) {
    return {kernels_generic::of_float, kernels_generic::rows_float};
  } else {
    return {kernels_generic::of_double, kernels_generic::rows_double};
  }
}

/// What `message_kernels` chooses where widths allow: "generic", "avx2" or "avx512".
std::string cpu_kernels() { return level_names[level()]; }

TORCH_LIBRARY_FRAGMENT(uip, library) { library.def("cpu_kernels() -> str", &cpu_kernels); }

}  // namespace

template <typename T>
const MessageKernels<T> &message_kernels(int64_t columns) {
  int chosen = level();
  while (chosen > generic && columns % kernels_of<T>(chosen).messages.lanes != 0) --chosen;
  return kernels_of<T>(chosen).messages;
}

template <typename T>
const RowKernels<T> &row_kernels() {
  return kernels_of<T>(level()).rows;
}

template const MessageKernels<float> &message_kernels<float>(int64_t);
template const MessageKernels<double> &message_kernels<double>(int64_t);
template const RowKernels<float> &row_kernels<float>();
template const RowKernels<double> &row_kernels<double>();

}  // namespace uip
