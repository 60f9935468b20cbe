// Ops by name: a call goes through the dispatcher (tracing, autograd, device).
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace uip {

/// The op `name`, called with the signature `Op`.
template <typename Op>
c10::TypedOperatorHandle<Op> find_op(const char *name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").template typed<Op>();
}

}  // namespace uip
