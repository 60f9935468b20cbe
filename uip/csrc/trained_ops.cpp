// The op `trained_message` (trained_message.h), with two derivatives; a third one is an error, never zero.
//
//     y = value(a, w)                    a: inputs, w: weights
//     backward: gradient(g, a, w)        with respect to a, and to w where they are asked for
//     double backward: second(u, g, a, w)   u: direction in the space of a
#include <ATen/Functions.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <utility>

#include "trained_message.h"

namespace uip {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor trained_message(const Tensor &x, const Tensor &first, const Tensor &second, const Tensor &third,
                       const Tensor &factor, const Tensor &input, const Tensor &matrices, const Tensor &vectors,
                       at::TensorList lists, bool norm, bool summed) {
  return trained_values({{x, first, second, third, factor, input, matrices, vectors}, lists, norm, summed});
}

/// Keeps a call for its derivative: arguments, then lists.
void save(AutogradContext *context, variable_list saved, at::TensorList lists, bool norm, bool summed) {
  saved.insert(saved.end(), lists.begin(), lists.end());
  context->save_for_backward(saved);
  context->saved_data["norm"] = norm;
  context->saved_data["summed"] = summed;
}

bool flag(const AutogradContext *context, const char *name) { return context->saved_data.at(name).toBool(); }

/// Which arguments this pass needs; the first of them is edge `begin` of the node.
Wanted wanted_of(const AutogradContext *context, size_t begin) {
  Wanted wanted;
  for (size_t k = 0; k < num_trained; ++k) wanted[k] = context->needs_input_grad(begin + k);
  return wanted;
}

/// As autograd takes them: derivatives, undefined where not wanted, and nothing for the arguments that have none.
variable_list results(variable_list first, at::TensorList found, const Wanted &wanted, size_t size) {
  for (size_t k = 0; k < num_trained; ++k) first.push_back(wanted[k] ? found[k] : Tensor());
  first.resize(size);
  return first;
}

class TrainedGradient : public torch::autograd::Function<TrainedGradient> {
 public:
  static variable_list forward(AutogradContext *context, const Tensor &gradient, at::TensorList arguments,
                               const variable_list &lists, bool norm, bool summed, const Wanted &wanted) {
    variable_list saved{gradient};
    saved.insert(saved.end(), arguments.begin(), arguments.end());
    save(context, std::move(saved), lists, norm, summed);
    context->set_materialize_grads(false);
    at::AutoDispatchBelowADInplaceOrView below;
    const auto found = trained_gradients({arguments, lists, norm, summed}, gradient, wanted).of_arguments;
    return {found.begin(), found.end()};
  }

  static variable_list backward(AutogradContext *context, const variable_list &directions) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "a fused message must be differentiated at most twice, but a third derivative was asked for "
                "(`create_graph=True`); use `uip.nn.fused.plain_form()`");
    for (size_t k = num_directions; k < num_trained; ++k) {
      TORCH_CHECK(!directions[k].defined(),
                  "gradients of a fused message with respect to weights must not be differentiated, but they were; use "
                  "`uip.nn.fused.plain_form()`");
    }
    const auto saved = context->get_saved_variables();
    const at::TensorList all(saved);
    const TrainedCall call(all.slice(1, num_trained), all.slice(1 + num_trained), flag(context, "norm"),
                           flag(context, "summed"));
    const Wanted wanted = wanted_of(context, 1);
    const auto found = trained_second(call, saved[0], at::TensorList(directions).slice(0, num_directions), wanted);
    return results({found.tangent}, found.of_arguments, wanted, 1 + num_trained + 4);
  }
};

class TrainedMessage : public torch::autograd::Function<TrainedMessage> {
 public:
  static Tensor forward(AutogradContext *context, at::TensorList arguments, const variable_list &lists, bool norm,
                        bool summed) {
    save(context, arguments.vec(), lists, norm, summed);
    at::AutoDispatchBelowADInplaceOrView below;
    return trained_values({arguments, lists, norm, summed});
  }

  static variable_list backward(AutogradContext *context, const variable_list &gradients) {
    const auto saved = context->get_saved_variables();
    const at::TensorList all(saved);
    const Wanted wanted = wanted_of(context, 0);
    const auto found = TrainedGradient::apply(gradients[0], all.slice(0, num_trained), all.slice(num_trained).vec(),
                                              flag(context, "norm"), flag(context, "summed"), wanted);
    return results({}, found, wanted, num_trained + 3);
  }
};

Tensor trained_message_autograd(const Tensor &x, const Tensor &first, const Tensor &second, const Tensor &third,
                                const Tensor &factor, const Tensor &input, const Tensor &matrices,
                                const Tensor &vectors, at::TensorList lists, bool norm, bool summed) {
  const variable_list arguments{x, first, second, third, factor, input, matrices, vectors};
  return TrainedMessage::apply(at::TensorList(arguments), lists.vec(), norm, summed);
}

TORCH_LIBRARY_FRAGMENT(uip, library) {
  library.def(
      "trained_message(Tensor x, Tensor first, Tensor second, Tensor third, Tensor factor, Tensor input, Tensor "
      "matrices, Tensor vectors, Tensor[] lists, bool norm, bool summed) -> Tensor");
}

TORCH_LIBRARY_IMPL(uip, CPU, library) { library.impl("trained_message", &trained_message); }

TORCH_LIBRARY_IMPL(uip, AutogradCPU, library) { library.impl("trained_message", &trained_message_autograd); }

}  // namespace
}  // namespace uip
