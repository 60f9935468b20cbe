// The communication ops. Each is linear, and its adjoint is an op too:
//
//     ghost_gather  <->  ghost_reduce        reverse_edges  <->  itself        all_gather  <->  reduce_scatter
//
// so gradients of any order are again these ops. Results never share memory with arguments, and their number
// of rows is that of an argument (the "carrier", whose values are not read): AOTInductor requires both.
// Names and meaning: comm.h.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "comm.h"
#include "find_op.h"

namespace uip {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void check_serial(const char *op, int64_t rows, int64_t wanted) {
  TORCH_CHECK(rows == wanted, "uip::", op, ": without a communicator the ", rows,
              " rows given must be as many as the rows wanted, got ", wanted,
              "; a structure with ghost atoms needs a communicator");
}

Tensor ghost_gather(const Tensor &x, const Tensor &rows_like) {
  if (Comm *comm = current_comm()) return comm->ghost_gather(x.contiguous(), rows_like.size(0));
  check_serial("ghost_gather", x.size(0), rows_like.size(0));
  return x.clone(at::MemoryFormat::Contiguous);
}

Tensor ghost_reduce(const Tensor &x, const Tensor &owned_like) {
  if (Comm *comm = current_comm()) return comm->ghost_reduce(x.contiguous(), owned_like.size(0));
  check_serial("ghost_reduce", x.size(0), owned_like.size(0));
  return x.clone(at::MemoryFormat::Contiguous);
}

Tensor reverse_edges(const Tensor &x, const Tensor &reverse, int64_t relation) {
  if (Comm *comm = current_comm()) return comm->reverse_edges(x.contiguous(), reverse, Relation{relation});
  return x.index_select(0, reverse);
}

Tensor all_gather(const Tensor &x, const Tensor &total_like) {
  if (Comm *comm = current_comm()) return comm->all_gather(x.contiguous(), total_like.size(0));
  check_serial("all_gather", x.size(0), total_like.size(0));
  return x.clone(at::MemoryFormat::Contiguous);
}

Tensor reduce_scatter(const Tensor &x, const Tensor &owned_like) {
  if (Comm *comm = current_comm()) return comm->reduce_scatter(x.contiguous(), owned_like.size(0));
  check_serial("reduce_scatter", x.size(0), owned_like.size(0));
  return x.clone(at::MemoryFormat::Contiguous);
}

Tensor rank_layout(const Tensor &x) {
  if (Comm *comm = current_comm()) return comm->rank_layout(x);
  return at::tensor({int64_t{0}, int64_t{0}, x.size(0)});
}

Tensor ring_shift(const Tensor &x, int64_t num_rows) {
  if (Comm *comm = current_comm()) return comm->ring_shift(x.contiguous(), num_rows);
  check_serial("ring_shift", x.size(0), num_rows);
  return x.clone(at::MemoryFormat::Contiguous);
}

// Shape of the results: as many rows as the carrier.
Tensor rows_of_carrier(const Tensor &x, const Tensor &carrier) {
  auto shape = x.sym_sizes().vec();
  shape[0] = carrier.sym_size(0);
  return x.new_empty_symint(shape);
}

Tensor rows_of_relation(const Tensor &x, const Tensor & /*reverse*/, int64_t /*relation*/) {
  return x.new_empty_symint(x.sym_sizes());
}

using CarrierOp = Tensor(const Tensor &, const Tensor &);
using RelationOp = Tensor(const Tensor &, const Tensor &, int64_t);

// The pairs of ops that are each other's adjoint.
struct GhostGather {
  static constexpr const char *forward = "uip::ghost_gather";
  static constexpr const char *adjoint = "uip::ghost_reduce";
};
struct GhostReduce {
  static constexpr const char *forward = "uip::ghost_reduce";
  static constexpr const char *adjoint = "uip::ghost_gather";
};
struct AllGather {
  static constexpr const char *forward = "uip::all_gather";
  static constexpr const char *adjoint = "uip::reduce_scatter";
};
struct ReduceScatter {
  static constexpr const char *forward = "uip::reduce_scatter";
  static constexpr const char *adjoint = "uip::all_gather";
};

// Ops whose rows follow a carrier; the carrier of the adjoint is `x` itself.
template <typename Pair>
class Adjoint : public torch::autograd::Function<Adjoint<Pair>> {
 public:
  static Tensor forward(AutogradContext *context, const Tensor &x, const Tensor &carrier) {
    static const auto op = find_op<CarrierOp>(Pair::forward);
    context->save_for_backward({x});
    remember_comm(context);
    at::AutoDispatchBelowADInplaceOrView below;
    return op.call(x, carrier);
  }

  static variable_list backward(AutogradContext *context, const variable_list &gradients) {
    static const auto op = find_op<CarrierOp>(Pair::adjoint);
    const UseComm use(remembered_comm(context));
    return {op.call(gradients[0], context->get_saved_variables()[0]), Tensor()};
  }
};

template <typename Pair>
Tensor differentiable(const Tensor &x, const Tensor &carrier) {
  return Adjoint<Pair>::apply(x, carrier);
}

class ReverseEdges : public torch::autograd::Function<ReverseEdges> {
 public:
  static Tensor forward(AutogradContext *context, const Tensor &x, const Tensor &reverse, int64_t relation) {
    static const auto op = find_op<RelationOp>("uip::reverse_edges");
    context->save_for_backward({reverse});
    context->saved_data["relation"] = relation;
    remember_comm(context);
    at::AutoDispatchBelowADInplaceOrView below;
    return op.call(x, reverse, relation);
  }

  static variable_list backward(AutogradContext *context, const variable_list &gradients) {
    static const auto op = find_op<RelationOp>("uip::reverse_edges");
    const UseComm use(remembered_comm(context));
    const auto reverse = context->get_saved_variables()[0];
    return {op.call(gradients[0], reverse, context->saved_data["relation"].toInt()), Tensor(), Tensor()};
  }
};

Tensor differentiable_reverse(const Tensor &x, const Tensor &reverse, int64_t relation) {
  return ReverseEdges::apply(x, reverse, relation);
}

void implement_collectives(torch::Library &library) {
  library.impl("ghost_gather", &ghost_gather);
  library.impl("ghost_reduce", &ghost_reduce);
  library.impl("reverse_edges", &reverse_edges);
  library.impl("all_gather", &all_gather);
  library.impl("reduce_scatter", &reduce_scatter);
  library.impl("rank_layout", &rank_layout);
  library.impl("ring_shift", &ring_shift);
}

TORCH_LIBRARY(uip, library) {
  library.def("ghost_gather(Tensor x, Tensor rows_like) -> Tensor");
  library.def("ghost_reduce(Tensor x, Tensor owned_like) -> Tensor");
  library.def("reverse_edges(Tensor x, Tensor reverse, int relation) -> Tensor");
  library.def("all_gather(Tensor x, Tensor total_like) -> Tensor");
  library.def("reduce_scatter(Tensor x, Tensor owned_like) -> Tensor");
  // parts of attention over the rows of all ranks (attention_ops.cpp); programs do not call them
  library.def("rank_layout(Tensor x) -> Tensor");
  library.def("ring_shift(Tensor x, int num_rows) -> Tensor");
}

TORCH_LIBRARY_IMPL(uip, CPU, library) { implement_collectives(library); }

// The same code: all steps are tensor operations; the Comm stages through the host.
TORCH_LIBRARY_IMPL(uip, CUDA, library) { implement_collectives(library); }

TORCH_LIBRARY_IMPL(uip, Meta, library) {
  for (const char *name : {"ghost_gather", "ghost_reduce", "all_gather", "reduce_scatter"}) {
    library.impl(name, &rows_of_carrier);
  }
  library.impl("reverse_edges", &rows_of_relation);
}

TORCH_LIBRARY_IMPL(uip, Autograd, library) {
  library.impl("ghost_gather", &differentiable<GhostGather>);
  library.impl("ghost_reduce", &differentiable<GhostReduce>);
  library.impl("reverse_edges", &differentiable_reverse);
  library.impl("all_gather", &differentiable<AllGather>);
  library.impl("reduce_scatter", &differentiable<ReduceScatter>);
}

}  // namespace
}  // namespace uip
