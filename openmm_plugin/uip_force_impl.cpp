#include "uip_force_impl.h"

#include <ATen/ATen.h>
#include <openmm/OpenMMException.h>
#include <openmm/System.h>
#include <openmm/internal/ContextImpl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <iostream>

#include "schema.h"
#include "units.h"

namespace uip::openmm {
namespace {

using OpenMM::OpenMMException;
using OpenMM::Vec3;

/// Adds the time of its life to a counter.
class Stopwatch {
 public:
  explicit Stopwatch(double &seconds) : seconds_(seconds), start_(Clock::now()) {}
  ~Stopwatch() { seconds_ += std::chrono::duration<double>(Clock::now() - start_).count(); }
  Stopwatch(const Stopwatch &) = delete;
  Stopwatch &operator=(const Stopwatch &) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  double &seconds_;
  Clock::time_point start_;
};

at::Tensor view(const std::vector<int64_t> &values, at::IntArrayRef shape) {
  return at::from_blob(const_cast<int64_t *>(values.data()), shape, at::kLong);
}

at::Tensor view(const double *values, at::IntArrayRef shape) {
  return at::from_blob(const_cast<double *>(values), shape, at::kDouble);
}

at::Tensor view(const PaddedRows &rows) { return view(rows.items, {rows.num_rows, rows.width}); }

at::Tensor on_host(const at::Tensor &tensor) { return tensor.to(at::kCPU, at::kDouble).contiguous(); }

std::vector<double> numbers(const at::Tensor &tensor) {
  const at::Tensor host = on_host(tensor);
  return {host.const_data_ptr<double>(), host.const_data_ptr<double>() + host.numel()};
}

bool has(const std::vector<std::string> &names, const char *name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

void check_outputs(const Metadata &metadata) {
  if (has(metadata.outputs, schema::edge_grad) || has(metadata.outputs, schema::forces)) return;
  throw OpenMMException("'" + metadata.name + "' must return edge_grad or forces to be run in OpenMM; export it again");
}

void warn_of_direct_forces(const Metadata &metadata) {
  static std::atomic<bool> warned = false;
  if (metadata.conservative || warned.exchange(true)) return;
  std::cerr << "uip: the forces of '" << metadata.name
            << "' are no gradient of its energy: energy drifts in NVE, and a barostat samples another ensemble\n";
}

/// The GPU that OpenMM uses, for models exported for cuda; -1 elsewhere.
int device_index(OpenMM::ContextImpl &context) {
  const OpenMM::Platform &platform = context.getPlatform();
  if (platform.getName() != "CUDA" && platform.getName() != "HIP") return -1;
  return std::atoi(platform.getPropertyValue(context.getOwner(), "DeviceIndex").c_str());
}

Vector in_angstrom(const Vec3 &r) { return {r[0] * NM_TO_A, r[1] * NM_TO_A, r[2] * NM_TO_A}; }

/// The antisymmetric part, of models that are not invariant under rotations, does not couple to strain.
void symmetrise(std::vector<double> &matrix) {
  for (int k = 0; k < 3; ++k) {
    for (int m = 0; m < k; ++m) matrix[3 * k + m] = matrix[3 * m + k] = 0.5 * (matrix[3 * k + m] + matrix[3 * m + k]);
  }
}

/// OpenMM forwards only exceptions of its own class from its threads.
template <typename Work>
auto as_openmm_exception(const Work &work) {
  try {
    return work();
  } catch (const OpenMMException &) {
    throw;
  } catch (const std::exception &error) {
    throw OpenMMException(std::string("UipForce: ") + error.what());
  }
}

}  // namespace

UipForceImpl::UipForceImpl(const UipForce &owner) : CustomCPPForceImpl(owner), owner_(owner) {}

void UipForceImpl::initialize(OpenMM::ContextImpl &context) {
  CustomCPPForceImpl::initialize(context);
  const Settings &settings = owner_.settings();
  const int num_particles = context.getSystem().getNumParticles();
  if (settings.particles.empty() && owner_.num_atoms() != num_particles) {
    throw OpenMMException("UipForce has " + std::to_string(owner_.num_atoms()) + " atoms, but the System has " +
                          std::to_string(num_particles) + " particles; say which with `particles`");
  }
  for (const int particle : settings.particles) {
    if (particle >= 0 && particle < num_particles) continue;
    throw OpenMMException("UipForce acts on particle " + std::to_string(particle) + ", but the System has " +
                          std::to_string(num_particles) + " particles, counted from 0");
  }
  as_openmm_exception([&] { model_ = owner_.model().load(device_index(context)); });
  const Metadata &metadata = model_->metadata();
  check_outputs(metadata);
  warn_of_direct_forces(metadata);
  neighbors_ =
      std::make_unique<NeighborList>(metadata.cutoff, metadata.bond_cutoff, metadata.soft, settings.skin * NM_TO_A);
  atomic_numbers_.assign(settings.atomic_numbers.begin(), settings.atomic_numbers.end());
  charge_ = settings.charge;
  spin_ = settings.spin;
}

double UipForceImpl::computeForce(OpenMM::ContextImpl &context, const std::vector<Vec3> &positions,
                                  std::vector<Vec3> &forces) {
  as_openmm_exception([&] { evaluate(state_of(context, positions)); });
  constexpr double unit = EV_TO_KJ_PER_MOL / A_TO_NM;
  std::fill(forces.begin(), forces.end(), Vec3());
  for (int atom = 0; atom < owner_.num_atoms(); ++atom) {
    const Vector &f = forces_[atom];
    forces[owner_.particle(atom)] = Vec3(f[0], f[1], f[2]) * unit;
  }
  return results_.energy * EV_TO_KJ_PER_MOL;
}

void UipForceImpl::updateParametersInContext(OpenMM::ContextImpl &context) {
  charge_ = owner_.settings().charge;
  spin_ = owner_.settings().spin;
  evaluated_.reset();
  context.systemChanged();
}

const Results &UipForceImpl::results(OpenMM::ContextImpl &context) {
  std::vector<Vec3> positions;
  context.getPositions(positions);
  as_openmm_exception([&] {
    const State state = state_of(context, positions);
    if (evaluated_ != state) evaluate(state);
  });
  return results_;
}

UipForceImpl::State UipForceImpl::state_of(OpenMM::ContextImpl &context, const std::vector<Vec3> &positions) const {
  State state;
  for (int atom = 0; atom < owner_.num_atoms(); ++atom) {
    state.positions.push_back(in_angstrom(positions[owner_.particle(atom)]));
  }
  if (owner_.settings().periodic) {
    Vec3 a, b, c;
    context.getPeriodicBoxVectors(a, b, c);
    state.cell = {in_angstrom(a), in_angstrom(b), in_angstrom(c)};
  }
  return state;
}

void UipForceImpl::evaluate(const State &state) {
  const Stopwatch total(counters_.total_seconds);
  evaluated_.reset();
  const Graph &graph = find_graph(state);
  collect(graph, run(inputs(state, graph)));
  check_results();
  evaluated_ = state;
  ++counters_.num_evaluations;
}

const Graph &UipForceImpl::find_graph(const State &state) {
  const Stopwatch watch(counters_.neighbor_seconds);
  const Graph &graph = neighbors_->build(state.positions, state.cell);
  counters_.num_searches = neighbors_->num_searches();
  return graph;
}

/// Views of the graph's arrays: valid until the next graph.
UipForceImpl::Tensors UipForceImpl::inputs(const State &state, const Graph &graph) const {
  const int64_t num_atoms = owner_.num_atoms(), num_edges = graph.num_edges(), num_bonds = graph.num_bonds();
  const Cell cell = state.cell.value_or(Cell{});
  return {
      {schema::atomic_numbers, view(atomic_numbers_, {num_atoms})},
      {schema::positions, view(state.positions[0].data(), {num_atoms, 3})},
      {schema::cell, view(cell[0].data(), {1, 3, 3}).clone()},
      {schema::pbc, at::full({1, 3}, state.cell.has_value(), at::kBool)},
      {schema::graph_index, at::zeros({num_atoms}, at::kLong)},
      {schema::edge_index, view(graph.edge_index, {2, num_edges})},
      {schema::shifts, view(graph.shifts, {num_edges, 3})},
      {schema::edge_vec, view(graph.edge_vec.data(), {num_edges, 3})},
      {schema::reverse_edge, view(graph.reverse_edge, {num_edges})},
      {schema::bond_index, view(graph.bond_index, {num_bonds})},
      {schema::reverse_bond, view(graph.reverse_bond, {num_bonds})},
      {schema::angle_index, view(graph.angle_index, {2, graph.num_angles()})},
      {schema::nearest_edges, view(graph.nearest_edges)},
      {schema::bond_slots, view(graph.bond_slots)},
      {schema::charge, at::full({1}, charge_, at::kLong)},
      {schema::spin, at::full({1}, spin_, at::kLong)},
  };
}

UipForceImpl::Tensors UipForceImpl::run(const Tensors &inputs) {
  const Stopwatch watch(counters_.program_seconds);
  return model_->run(inputs);
}

void UipForceImpl::collect(const Graph &graph, const Tensors &outputs) {
  results_ = Results{};
  results_.node_energy = numbers(outputs.at(schema::node_energy));
  for (const double energy : results_.node_energy) results_.energy += energy;
  if (outputs.count(schema::magmoms) > 0) results_.magmoms = numbers(outputs.at(schema::magmoms));
  forces_.assign(owner_.num_atoms(), Vector{});
  if (outputs.count(schema::forces) > 0) {
    const at::Tensor forces = on_host(outputs.at(schema::forces));
    std::copy_n(forces.const_data_ptr<double>(), 3 * forces_.size(), forces_[0].data());
  } else {
    results_.virial.assign(9, 0.0);
    add_edge_gradients(graph, on_host(outputs.at(schema::edge_grad)));
    if (outputs.count(schema::position_grad) > 0) {
      add_position_gradients(on_host(outputs.at(schema::position_grad)), on_host(outputs.at(schema::strain_grad)));
    }
    symmetrise(results_.virial);
  }
}

void UipForceImpl::add_edge_gradients(const Graph &graph, const at::Tensor &edge_grad) {
  const double *gradient = edge_grad.const_data_ptr<double>(), *vector = graph.edge_vec.data();
  for (int64_t edge = 0; edge < graph.num_edges(); ++edge, gradient += 3, vector += 3) {
    Vector &centre = forces_[graph.centre(edge)], &neighbor = forces_[graph.neighbor(edge)];
    for (int k = 0; k < 3; ++k) {
      centre[k] += gradient[k];
      neighbor[k] -= gradient[k];
      for (int m = 0; m < 3; ++m) results_.virial[3 * k + m] -= vector[k] * gradient[m];
    }
  }
}

void UipForceImpl::add_position_gradients(const at::Tensor &position_grad, const at::Tensor &strain_grad) {
  const double *gradient = position_grad.const_data_ptr<double>(), *strain = strain_grad.const_data_ptr<double>();
  for (Vector &force : forces_) {
    for (int k = 0; k < 3; ++k) force[k] -= *gradient++;
    for (double &component : results_.virial) component -= *strain++;
  }
}

void UipForceImpl::check_results() const {
  bool finite = std::isfinite(results_.energy);
  for (const Vector &f : forces_) finite = finite && std::isfinite(f[0] + f[1] + f[2]);
  if (finite) return;
  throw OpenMMException("'" + model_->metadata().name +
                        "' gave an energy or force that is not a finite number; the structure is far from anything "
                        "the model knows, look for atoms that are too close, or minimise first");
}

}  // namespace uip::openmm
