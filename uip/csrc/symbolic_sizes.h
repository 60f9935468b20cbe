// Results without numbers, of kernels that trace shapes (dispatch key Meta): their sizes may be symbols.
#pragma once

#include <ATen/core/Tensor.h>

namespace uip {

/// As at::empty_like, of symbolic sizes too.
inline at::Tensor new_like(const at::Tensor &x) { return x.new_empty_symint(x.sym_sizes()); }

}  // namespace uip
