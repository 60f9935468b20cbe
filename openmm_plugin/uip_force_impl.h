// The implementation of a UipForce in a Context. OpenMM's CustomCPPForceImpl copies positions to the host and forces
// back, on any platform; here they become a graph, the program runs, and edge gradients become forces (uip::Assembler):
//     F_i += g_e,  F_j -= g_e,  virial -= edge_vec_e (x) g_e       g_e = dE / d edge_vec_e, e = (i -> j)
// and for models with position_grad and strain_grad, F_i -= position_grad_i and virial -= strain_grad_i.
#pragma once

#include <openmm/internal/CustomCPPForceImpl.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "neighbors.h"
#include "uip_force.h"

namespace uip::openmm {

/// Whether `name` is among names of inputs or outputs.
inline bool has(const std::vector<std::string> &names, const char *name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

class UipForceImpl final : public OpenMM::CustomCPPForceImpl {
 public:
  explicit UipForceImpl(const UipForce &owner);

  void initialize(OpenMM::ContextImpl &context) override;
  const OpenMM::Force &getOwner() const override { return owner_; }
  double computeForce(OpenMM::ContextImpl &context, const std::vector<OpenMM::Vec3> &positions,
                      std::vector<OpenMM::Vec3> &forces) override;
  void updateParametersInContext(OpenMM::ContextImpl &context);

  const Results &results(OpenMM::ContextImpl &context);
  const Counters &counters() const { return counters_; }

 private:
  using Tensors = std::map<std::string, at::Tensor>;

  /// All that the energy depends on; positions of the model's atoms in A.
  struct State {
    std::vector<Vector> positions;
    std::optional<Matrix> cell;
    bool operator==(const State &) const = default;
  };

  State state_of(OpenMM::ContextImpl &context, const std::vector<OpenMM::Vec3> &positions) const;
  void evaluate(const State &state);
  void find_graph(const State &state);
  void check_distances() const;
  Tensors run(const State &state);
  void collect(const Tensors &outputs);
  void set_forces(const at::Tensor &forces);
  void add_edge_gradients(const at::Tensor &edge_grad);
  void add_position_gradients(const at::Tensor &position_grad, const at::Tensor &strain_grad);
  void check_results() const;

  const UipForce &owner_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<NeighborSearch> search_;
  std::unique_ptr<Assembler> assembler_;
  int charge_ = 0, spin_ = 1;
  at::Tensor atomic_numbers_;  // (N,)

  std::optional<State> evaluated_;  // state of results_ and forces_
  Results results_;
  std::vector<Vector> forces_;  // eV/A, of the model's atoms
  Counters counters_;
};

}  // namespace uip::openmm
