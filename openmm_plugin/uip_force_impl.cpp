#include "uip_force_impl.h"

#include <ATen/ATen.h>
#include <openmm/OpenMMException.h>
#include <openmm/System.h>
#include <openmm/internal/ContextImpl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
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

at::Tensor view(const std::vector<Vector> &rows) {
  const auto count = static_cast<int64_t>(rows.size());
  return at::from_blob(const_cast<Vector *>(rows.data()), {count, 3}, at::kDouble);
}

std::string text_of(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.3g", value);
  return text.data();
}

at::Tensor on_host(const at::Tensor &tensor) { return tensor.to(at::kCPU, at::kDouble).contiguous(); }

std::vector<double> numbers(const at::Tensor &tensor) {
  const at::Tensor host = on_host(tensor);
  return {host.const_data_ptr<double>(), host.const_data_ptr<double>() + host.numel()};
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
  search_ = std::make_unique<NeighborSearch>(metadata.cutoff, settings.skin * NM_TO_A);
  assembler_ = std::make_unique<Assembler>(metadata, at::kCPU);
  atomic_numbers_ = at::tensor(settings.atomic_numbers).to(at::kLong);
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
  find_graph(state);
  collect(run(state));
  check_results();
  evaluated_ = state;
  ++counters_.num_evaluations;
}

void UipForceImpl::find_graph(const State &state) {
  const Stopwatch watch(counters_.neighbor_seconds);
  if (search_->is_due(state.positions, state.cell)) {
    search_->search(state.positions, state.cell, assembler_->pairs());
    assembler_->start_list(atomic_numbers_);
  }
  assembler_->find_edges(view(state.positions), state.cell.value_or(Matrix{}));
  check_distances();
  if (model_->metadata().soft) assembler_->find_soft_bonds(nullptr);
  counters_.num_searches = search_->num_searches();
}

void UipForceImpl::check_distances() const {
  const auto overlaps = assembler_->overlaps();
  if (overlaps.empty()) return;
  const int64_t edge = overlaps[0];
  throw std::runtime_error("atoms must be at least " + text_of(MIN_DISTANCE) + " A apart, but atoms " +
                           std::to_string(assembler_->edge_centre(edge)) + " and " +
                           std::to_string(assembler_->edge_neighbor(edge)) + " are " +
                           text_of(assembler_->distance(edge)) + " A apart; remove duplicates or check box and units");
}

UipForceImpl::Tensors UipForceImpl::run(const State &state) {
  const bool periodic = state.cell.has_value();
  const auto inputs = assembler_->inputs({periodic, periodic, periodic}, {charge_, spin_});
  const Stopwatch watch(counters_.program_seconds);
  return model_->run(inputs);
}

void UipForceImpl::collect(const Tensors &outputs) {
  results_ = Results{};
  results_.node_energy = numbers(outputs.at(schema::node_energy));
  for (const double energy : results_.node_energy) results_.energy += energy;
  if (outputs.count(schema::magmoms) > 0) results_.magmoms = numbers(outputs.at(schema::magmoms));
  forces_.assign(owner_.num_atoms(), Vector{});
  if (outputs.count(schema::forces) > 0) {
    set_forces(on_host(outputs.at(schema::forces)));
  } else {
    results_.virial.assign(9, 0.0);
    add_edge_gradients(outputs.at(schema::edge_grad));
    if (outputs.count(schema::position_grad) > 0) {
      add_position_gradients(on_host(outputs.at(schema::position_grad)), on_host(outputs.at(schema::strain_grad)));
    }
    symmetrise(results_.virial);
  }
}

void UipForceImpl::set_forces(const at::Tensor &forces) {
  std::copy_n(forces.const_data_ptr<double>(), 3 * forces_.size(), forces_[0].data());
}

void UipForceImpl::add_edge_gradients(const at::Tensor &edge_grad) {
  set_forces(assembler_->forces(edge_grad));
  const auto virials = numbers(assembler_->virial_of_centres(edge_grad));
  for (size_t k = 0; k < virials.size(); ++k) results_.virial[k % 9] += virials[k];
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
