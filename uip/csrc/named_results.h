// Ops whose kernels return a struct with named fields. The dispatcher carries tuples: a struct converts itself
// with `as_tuple`, its fields in the order of the op's schema.
#pragma once

#include <utility>

namespace uip {

template <auto kernel>
struct Tupled;

/// `Tupled<kernel>::call`: the kernel as the dispatcher calls it.
template <typename Result, typename... Arguments, Result (*kernel)(Arguments...)>
struct Tupled<kernel> {
  static auto call(Arguments... arguments) { return kernel(std::forward<Arguments>(arguments)...).as_tuple(); }
};

}  // namespace uip
