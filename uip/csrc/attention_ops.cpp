// All-to-all attention as an op: attention over the atoms of all ranks, or over those of each graph of a batch.
//
//     attend(q, k, v, ...) -> (out, lse)            attend_backward(...) -> gradients
//
// The backward pass recomputes the weights from the log-sum-exp, which includes the sink, if there is one. First
// derivatives only, not of the sink and of the weights of the bias: training has its own form (uip/ops/attention.py).
#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "attention_ranks.h"
#include "comm.h"
#include "find_op.h"
#include "named_results.h"
#include "symbolic_sizes.h"

namespace uip {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using MaybeTensor = std::optional<Tensor>;

/// First atom and number of atoms of each graph.
std::vector<std::pair<int64_t, int64_t>> spans(const Tensor &graph_index) {
  const auto counts = at::bincount(graph_index.cpu());
  std::vector<std::pair<int64_t, int64_t>> result;
  int64_t start = 0;
  for (int64_t graph = 0; graph < counts.size(0); ++graph) {
    const int64_t count = counts[graph].item<int64_t>();
    result.emplace_back(start, count);
    start += count;
  }
  return result;
}

/// Arguments of the ops.
struct AttentionArguments {
  Tensor q, k, v, graph_index;
  int64_t heads;
  Tensor weight, positions, cell, pbc;  // undefined without radial bias

  Attention attention(int64_t graph, int64_t start, int64_t count) const {
    if (!weight.defined()) return {heads, std::nullopt};
    const auto on_host = cell.select(0, graph).to(at::kCPU, at::kDouble);
    return {heads, Radial{weight, positions.narrow(0, start, count), on_host, pbc.select(0, graph).cpu()}};
  }
  Keys keys(int64_t start, int64_t count) const {
    return {k.narrow(0, start, count), v.narrow(0, start, count),
            weight.defined() ? positions.narrow(0, start, count) : Tensor()};
  }
};

Attended attend_atoms(const AttentionArguments &a) {
  const Layout layout(a.k);
  if (layout.num_ranks() > 1) return attend_ranks(a.attention(0, 0, a.q.size(0)), a.q, a.keys(0, a.q.size(0)), layout);
  std::vector<Tensor> outs{a.q.narrow(0, 0, 0)}, lses{a.attention(0, 0, 0).forward(outs[0], a.keys(0, 0)).lse};
  for (int64_t graph = 0; const auto &[start, count] : spans(a.graph_index)) {
    const auto part = a.attention(graph++, start, count).forward(a.q.narrow(0, start, count), a.keys(start, count));
    outs.push_back(part.out);
    lses.push_back(part.lse);
  }
  return {at::cat(outs), at::cat(lses)};
}

/// Each rank adds the sink to the results of its own queries, after all keys.
Attended attend(const AttentionArguments &a, const MaybeTensor &sink) {
  const auto attended = attend_atoms(a);
  return sink ? with_sink(attended, *sink) : attended;
}

BlockGradient attend_backward(const AttentionArguments &a, const Tensor &gradient, const Attended &attended) {
  const Layout layout(a.k);
  const int64_t num_atoms = a.q.size(0);
  if (layout.num_ranks() > 1) {
    return attend_ranks_backward(a.attention(0, 0, num_atoms), gradient, a.q, a.keys(0, num_atoms), attended, layout);
  }
  std::vector<BlockGradient> parts{
      a.attention(0, 0, 0).backward(gradient.narrow(0, 0, 0), a.q.narrow(0, 0, 0), a.keys(0, 0), attended)};
  for (int64_t graph = 0; const auto &[start, count] : spans(a.graph_index)) {
    const auto of = [start = start, count = count](const Tensor &x) { return x.narrow(0, start, count); };
    parts.push_back(a.attention(graph++, start, count)
                        .backward(of(gradient), of(a.q), a.keys(start, count), {of(attended.out), of(attended.lse)}));
    auto &part = parts.back();
    if (part.key_positions.defined()) part.query_positions = part.query_positions + part.key_positions;
  }
  const auto join = [&](Tensor BlockGradient::*field) {
    std::vector<Tensor> rows;
    for (const auto &part : parts) rows.push_back(part.*field);
    return rows[0].defined() ? at::cat(rows) : Tensor();
  };
  return {join(&BlockGradient::q),
          join(&BlockGradient::k),
          join(&BlockGradient::v),
          join(&BlockGradient::query_positions),
          {},
          join(&BlockGradient::strain)};
}

// The ops: plain, and with radial bias. Values of `strain` are not read; it has a gradient.
// Results have their fields in the order of the schemas.

struct AttentionResult {
  Tensor out, lse;
  std::tuple<Tensor, Tensor> as_tuple() const { return {out, lse}; }
};

/// Gradients of the arguments of the same names.
struct PlainGradients {
  Tensor q, k, v;
  std::tuple<Tensor, Tensor, Tensor> as_tuple() const { return {q, k, v}; }
};

struct RadialGradients {
  Tensor q, k, v, positions, strain;
  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> as_tuple() const { return {q, k, v, positions, strain}; }
};

Tensor as(const Tensor &x, const Tensor &like) { return x.to(like.scalar_type()).contiguous(); }

AttentionResult plain(const Tensor &q, const Tensor &k, const Tensor &v, const Tensor &graph_index, int64_t heads,
                      const MaybeTensor &sink) {
  const auto result = attend({q, k, v, graph_index, heads, {}, {}, {}, {}}, sink);
  return {as(result.out, q), result.lse.contiguous()};
}

PlainGradients plain_backward(const Tensor &gradient, const Tensor &q, const Tensor &k, const Tensor &v,
                              const Tensor &out, const Tensor &lse, const Tensor &graph_index, int64_t heads) {
  const auto result = attend_backward({q, k, v, graph_index, heads, {}, {}, {}, {}}, gradient, {out, lse});
  return {as(result.q, q), as(result.k, q), as(result.v, q)};
}

AttentionResult radial(const Tensor &q, const Tensor &k, const Tensor &v, const Tensor &graph_index, int64_t heads,
                       const Tensor &weight, const Tensor &positions, const Tensor & /*strain*/, const Tensor &cell,
                       const Tensor &pbc, const MaybeTensor &sink) {
  const auto result = attend({q, k, v, graph_index, heads, weight, positions, cell, pbc}, sink);
  return {as(result.out, q), result.lse.contiguous()};
}

RadialGradients radial_backward(const Tensor &gradient, const Tensor &q, const Tensor &k, const Tensor &v,
                                const Tensor &out, const Tensor &lse, const Tensor &graph_index, int64_t heads,
                                const Tensor &weight, const Tensor &positions, const Tensor &cell, const Tensor &pbc) {
  const auto result =
      attend_backward({q, k, v, graph_index, heads, weight, positions, cell, pbc}, gradient, {out, lse});
  return {as(result.q, q), as(result.k, q), as(result.v, q), as(result.query_positions, positions),
          as(result.strain, positions)};
}

Tensor lse_like(const Tensor &q, int64_t heads) {
  const auto type = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return q.new_empty_symint({q.sym_size(0), heads}, q.options().dtype(type));
}

AttentionResult plain_meta(const Tensor &q, const Tensor &, const Tensor &, const Tensor &, int64_t heads,
                           const MaybeTensor &) {
  return {new_like(q), lse_like(q, heads)};
}

PlainGradients plain_backward_meta(const Tensor &, const Tensor &q, const Tensor &, const Tensor &, const Tensor &,
                                   const Tensor &, const Tensor &, int64_t) {
  return {new_like(q), new_like(q), new_like(q)};
}

AttentionResult radial_meta(const Tensor &q, const Tensor &, const Tensor &, const Tensor &, int64_t heads,
                            const Tensor &, const Tensor &, const Tensor &, const Tensor &, const Tensor &,
                            const MaybeTensor &) {
  return {new_like(q), lse_like(q, heads)};
}

RadialGradients radial_backward_meta(const Tensor &, const Tensor &q, const Tensor &, const Tensor &, const Tensor &,
                                     const Tensor &, const Tensor &, int64_t, const Tensor &, const Tensor &positions,
                                     const Tensor &, const Tensor &) {
  return {new_like(q), new_like(q), new_like(q), new_like(positions),
          positions.new_empty_symint({positions.sym_size(0), 3, 3})};
}

class Plain : public torch::autograd::Function<Plain> {
 public:
  static variable_list forward(AutogradContext *context, const Tensor &q, const Tensor &k, const Tensor &v,
                               const Tensor &graph_index, int64_t heads, const MaybeTensor &sink) {
    static const auto op = find_op<decltype(Tupled<plain>::call)>("uip::attend");
    at::AutoDispatchBelowADInplaceOrView below;
    const auto [out, lse] = op.call(q, k, v, graph_index, heads, sink);
    context->save_for_backward({q, k, v, out, lse, graph_index});
    context->saved_data["heads"] = heads;
    remember_comm(context);
    context->mark_non_differentiable({lse});
    return {out, lse};
  }

  static variable_list backward(AutogradContext *context, const variable_list &gradients) {
    static const auto op = find_op<decltype(Tupled<plain_backward>::call)>("uip::attend_backward");
    const UseComm use(remembered_comm(context));
    const auto x = context->get_saved_variables();
    const auto [q, k, v] =
        op.call(gradients[0], x[0], x[1], x[2], x[3], x[4], x[5], context->saved_data["heads"].toInt());
    return {q, k, v, Tensor(), Tensor(), Tensor()};
  }
};

class WithRadial : public torch::autograd::Function<WithRadial> {
 public:
  static variable_list forward(AutogradContext *context, const Tensor &q, const Tensor &k, const Tensor &v,
                               const Tensor &graph_index, int64_t heads, const Tensor &weight, const Tensor &positions,
                               const Tensor &strain, const Tensor &cell, const Tensor &pbc, const MaybeTensor &sink) {
    static const auto op = find_op<decltype(Tupled<radial>::call)>("uip::attend_radial");
    at::AutoDispatchBelowADInplaceOrView below;
    const auto [out, lse] = op.call(q, k, v, graph_index, heads, weight, positions, strain, cell, pbc, sink);
    context->save_for_backward({q, k, v, out, lse, graph_index, weight, positions, cell, pbc});
    context->saved_data["heads"] = heads;
    remember_comm(context);
    context->mark_non_differentiable({lse});
    return {out, lse};
  }

  static variable_list backward(AutogradContext *context, const variable_list &gradients) {
    static const auto op = find_op<decltype(Tupled<radial_backward>::call)>("uip::attend_radial_backward");
    const UseComm use(remembered_comm(context));
    const auto x = context->get_saved_variables();
    const auto [q, k, v, positions, strain] = op.call(gradients[0], x[0], x[1], x[2], x[3], x[4], x[5],
                                                      context->saved_data["heads"].toInt(), x[6], x[7], x[8], x[9]);
    return {q, k, v, Tensor(), Tensor(), Tensor(), positions, strain, Tensor(), Tensor(), Tensor()};
  }
};

AttentionResult plain_autograd(const Tensor &q, const Tensor &k, const Tensor &v, const Tensor &graph_index,
                               int64_t heads, const MaybeTensor &sink) {
  const auto result = Plain::apply(q, k, v, graph_index, heads, sink);
  return {result[0], result[1]};
}

AttentionResult radial_autograd(const Tensor &q, const Tensor &k, const Tensor &v, const Tensor &graph_index,
                                int64_t heads, const Tensor &weight, const Tensor &positions, const Tensor &strain,
                                const Tensor &cell, const Tensor &pbc, const MaybeTensor &sink) {
  const auto result = WithRadial::apply(q, k, v, graph_index, heads, weight, positions, strain, cell, pbc, sink);
  return {result[0], result[1]};
}

void implement_attention(torch::Library &library) {
  library.impl("attend", &Tupled<plain>::call);
  library.impl("attend_backward", &Tupled<plain_backward>::call);
  library.impl("attend_radial", &Tupled<radial>::call);
  library.impl("attend_radial_backward", &Tupled<radial_backward>::call);
}

TORCH_LIBRARY_FRAGMENT(uip, library) {
  library.def(
      "attend(Tensor q, Tensor k, Tensor v, Tensor graph_index, int heads, Tensor? sink=None) -> (Tensor, Tensor)");
  library.def(
      "attend_backward(Tensor gradient, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor graph_index, "
      "int heads) -> (Tensor, Tensor, Tensor)");
  library.def(
      "attend_radial(Tensor q, Tensor k, Tensor v, Tensor graph_index, int heads, Tensor weight, Tensor positions, "
      "Tensor strain, Tensor cell, Tensor pbc, Tensor? sink=None) -> (Tensor, Tensor)");
  library.def(
      "attend_radial_backward(Tensor gradient, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
      "Tensor graph_index, int heads, Tensor weight, Tensor positions, Tensor cell, Tensor pbc) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(uip, CPU, library) { implement_attention(library); }
TORCH_LIBRARY_IMPL(uip, CUDA, library) { implement_attention(library); }

TORCH_LIBRARY_IMPL(uip, Meta, library) {
  library.impl("attend", &Tupled<plain_meta>::call);
  library.impl("attend_backward", &Tupled<plain_backward_meta>::call);
  library.impl("attend_radial", &Tupled<radial_meta>::call);
  library.impl("attend_radial_backward", &Tupled<radial_backward_meta>::call);
}

TORCH_LIBRARY_IMPL(uip, Autograd, library) {
  library.impl("attend", &Tupled<plain_autograd>::call);
  library.impl("attend_radial", &Tupled<radial_autograd>::call);
  // a second derivative must be an error, never zero
  library.impl("attend_backward", torch::autograd::autogradNotImplementedFallback());
  library.impl("attend_radial_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace uip
