// SPDX-License-Identifier: GPL-2.0-only
// The part of PairUIP for each step; pair_uip.cpp reads commands.
#include <ATen/Functions.h>
#include <lammps/atom.h>
#include <lammps/comm.h>
#include <lammps/domain.h>
#include <lammps/error.h>
#include <lammps/exceptions.h>
#include <lammps/fmt/format.h>
#include <lammps/neigh_list.h>
#include <lammps/neighbor.h>
#include <lammps/platform.h>
#include <lammps/update.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <numeric>
#include <stdexcept>
#include <type_traits>

#include "pair_uip.h"
#include "schema.h"

namespace uip::lammps {
namespace {

Box box_of(const LAMMPS_NS::Domain &domain) {
  // a = (xx, 0, 0), b = (xy, yy, 0), c = (xz, yz, zz) from xx yy zz yz xz xy
  const auto lower = [](const double *h) { return Matrix{{{h[0], 0.0, 0.0}, {h[5], h[1], 0.0}, {h[4], h[3], h[2]}}}; };
  const auto &p = domain.periodicity;
  return {lower(domain.h), lower(domain.h_inv), {p[0] != 0, p[1] != 0, p[2] != 0}};
}

/// A multiple of a matrix in LAMMPS' order of the nine components of a per-atom virial: xx yy zz xy xz yz yx zx zy.
std::array<double, 9> nine_components(const double *matrix, double factor) {
  constexpr int places[9] = {0, 4, 8, 1, 2, 5, 3, 6, 7};
  std::array<double, 9> virial;
  for (int k = 0; k < 9; ++k) virial[k] = factor * matrix[places[k]];
  return virial;
}

/// And of the six: the symmetric part.
std::array<double, 6> six_components(const std::array<double, 9> &v) {
  return {v[0], v[1], v[2], 0.5 * (v[3] + v[6]), 0.5 * (v[4] + v[7]), 0.5 * (v[5] + v[8])};
}

}  // namespace

/// The message for an exception on this rank.
std::string PairUIP::report(const std::exception &cause) const {
  const auto *torch_error = dynamic_cast<const c10::Error *>(&cause);
  const std::string text = torch_error ? torch_error->what_without_backtrace() : cause.what();
  const bool out_of_memory = dynamic_cast<const std::bad_alloc *>(&cause) != nullptr ||
                             text.find("allocate") != std::string::npos ||
                             text.find("out of memory") != std::string::npos;
  std::string advice;
  if (out_of_memory) {
    advice = fmt::format(
        "; out of memory with {} atoms, {} ghosts, {} edges, {} angles on this rank: use more ranks or a "
        "smaller system",
        graph_->num_owned(), graph_->num_rows() - graph_->num_owned(), graph_->assembler().num_edges(),
        graph_->assembler().num_angles());
  }
  return fmt::format("pair uip stopped on rank {} of {} at step {}: {}{}", ranks_.rank(), ranks_.num_ranks(),
                     update->ntimestep, text, advice);
}

template <typename Work>
auto PairUIP::abort_on_error(Work work) {
  try {
    return work();
  } catch (const LAMMPS_NS::LAMMPSException &) {
    throw;
  } catch (const std::exception &cause) {
    error->one(FLERR, report(cause));
  }
}

template <typename Work>
MpiComm::Flags PairUIP::agree_on_errors(Work work) {
  std::string problem;
  MpiComm::Flags flags;
  try {
    flags = work();
  } catch (const std::exception &cause) {
    problem = report(cause);
  }
  const auto agreement = ranks_.agree(problem, flags);
  if (!agreement.text.empty()) error->all(FLERR, agreement.text);
  return agreement.any;
}

void PairUIP::compute(int eflag, int vflag) {
  ev_init(eflag, vflag);
  pvector[PROGRAM_SECONDS] = 0.0;
  const auto bytes_before = ranks_.bytes_sent(), messages_before = ranks_.messages_sent();
  const auto positions = abort_on_error([&] {
    if (neighbor->ago == 0 || !plan_is_ready_) rebuild();
    return graph_->gather_positions(atom->x);
  });
  const auto [box, overlap] = find_edges(positions);
  if (overlap) {
    warn_of_overlap();
    std::fill(magmoms_.begin(), magmoms_.end(), 0.0);
    std::fill(deviation_.begin(), deviation_.end(), std::numeric_limits<double>::quiet_NaN());
    forget_uncertainty();
    abort_on_error([&] { store(graph_->repulsion()); });
  } else {
    const auto inputs = abort_on_error([&] { return graph_->inputs(box, settings_.charge_and_spin); });
    const auto outputs = abort_on_error([&] { return run_members(inputs); });
    abort_on_error([&] {
      store(settings_.committee.forces == "first" ? outputs[0] : mean_of(outputs));
      keep_deviation(outputs);
      keep_uncertainty(outputs[0]);
    });
  }
  pvector[BYTES_SENT] = static_cast<double>(ranks_.bytes_sent() - bytes_before);
  pvector[MESSAGES_SENT] = static_cast<double>(ranks_.messages_sent() - messages_before);
}

/// Overlapping atoms end the run at its setup, where the structure is the user's; later they come from trial moves.
/// Collective.
PairUIP::Step PairUIP::find_edges(const at::Tensor &positions) {
  Box box = box_of(*domain);
  const auto find = [&]() -> MpiComm::Flags {
    graph_->check_positions(positions);
    if (!graph_->ghosts_match(positions, atom->x, box)) return {.strained = true};
    graph_->find_edges(positions, box);
    if (update->setupflag && graph_->has_overlap()) throw std::runtime_error(graph_->overlap_text());
    return {.overlap = graph_->has_overlap()};
  };
  auto flags = agree_on_errors(find);
  if (!flags.strained) return {box, flags.overlap};
  box = graph_->strained_box(positions, atom->x, box);
  flags = agree_on_errors(find);
  if (!flags.strained) return {box, flags.overlap};
  error->all(FLERR,
             "pair uip: ghost atoms must be periodic images of their owners, or strained homogeneously with them, but "
             "some were moved alone; leave out the fix or compute that moves ghosts");
}

/// Once. Collective.
void PairUIP::warn_of_overlap() {
  if (warned_of_overlap_) return;
  warned_of_overlap_ = true;
  const auto text = ranks_.first_text(graph_->overlap_text());
  if (comm->me != 0) return;
  error->warning(FLERR,
                 "pair uip at step {}: {}. In such steps the model is replaced by a repulsion of more than 1e8 eV, "
                 "which Monte Carlo moves and line searches reject",
                 update->ntimestep, text);
}

void PairUIP::rebuild() {
  Atoms atoms{atom->nlocal, atom->nlocal + atom->nghost, atom->x, atom->type, atom->mask, absent_bits(), {}};
  if (atom->tag_enable) atoms.ids.assign(atom->tag, atom->tag + atom->nlocal);
  origins_ = graph_->number_owned(atoms);
  comm->forward_comm(this);
  graph_->rebuild(atoms, {list->inum, list->ilist, list->numneigh, list->firstneigh, NEIGHMASK}, origins_,
                  box_of(*domain));
  plan_is_ready_ = true;
}

int PairUIP::pack_forward_comm(int n, int *list, double *buffer, int /*pbc_flag*/, int * /*pbc*/) {
  static_assert(sizeof(Origin) == Origin::size * sizeof(double) && std::is_trivially_copyable_v<Origin>);
  for (int k = 0; k < n; ++k) std::memcpy(buffer + k * Origin::size, &origins_[list[k]], sizeof(Origin));
  return n * Origin::size;
}

void PairUIP::unpack_forward_comm(int n, int first, double *buffer) {
  std::memcpy(&origins_[first], buffer, n * sizeof(Origin));
}

Tensors PairUIP::run(Model &model, const Tensors &inputs) {
  const UseComm use(&ranks_);
  const double start = LAMMPS_NS::platform::walltime();
  auto outputs = model.run(inputs);
  pvector[PROGRAM_SECONDS] += LAMMPS_NS::platform::walltime() - start;
  pvector[NUM_GHOSTS] = static_cast<double>(graph_->num_rows() - graph_->num_owned());
  pvector[NUM_EDGES] = static_cast<double>(graph_->assembler().num_edges());
  pvector[NUM_ANGLES] = static_cast<double>(graph_->assembler().num_angles());
  return outputs;
}

void PairUIP::store(const Tensors &outputs) {
  add_energies(on_host(outputs.at(schema::node_energy)));
  if (outputs.count(schema::edge_grad) > 0) {
    add_gradients(outputs);
  } else {
    add_forces(on_host(outputs.at(schema::forces)));
    if (vflag_either) mark_virial_unknown();
  }
  if (const auto found = outputs.find(schema::magmoms); found != outputs.end()) keep_magmoms(on_host(found->second));
}

/// Forces and virial of a model whose energy depends on edge vectors and, maybe, on positions beyond them.
void PairUIP::add_gradients(const Tensors &outputs) {
  add_forces(forces_of_gradients(outputs));
  if (!vflag_either) return;
  if (cvflag_atom) warn_of_heat_flux();
  add_edge_virial(outputs.at(schema::edge_grad));
  if (outputs.count(schema::strain_grad) > 0) add_atom_virial(on_host(outputs.at(schema::strain_grad)));
}

/// (N, 3) eV/A of the atoms of this rank. Collective.
at::Tensor PairUIP::forces_of_gradients(const Tensors &outputs) {
  const auto forces = graph_->assembler().forces(outputs.at(schema::edge_grad));
  if (const auto found = outputs.find(schema::position_grad); found != outputs.end()) {
    forces.narrow(0, 0, graph_->num_owned()).sub_(on_host(found->second));
  }
  return ranks_.ghost_reduce(forces, graph_->num_owned());
}

void PairUIP::add_energies(const at::Tensor &node_energy) {
  const double *energies = node_energy.const_data_ptr<double>();
  for (int64_t row = 0; row < graph_->num_owned(); ++row) {
    const double energy = energy_unit_ * energies[row];
    if (!std::isfinite(energy)) {
      throw std::runtime_error(
          fmt::format("the energy of atom {} is {}; the structure is far outside the "
                      "training data",
                      graph_->id_of_row(row), energy));
    }
    if (eflag_global) eng_vdwl += energy;
    if (eflag_atom) eatom[graph_->atom_of_row(row)] += energy;
  }
}

void PairUIP::add_forces(const at::Tensor &forces) {
  const double *force = forces.const_data_ptr<double>();
  for (int64_t row = 0; row < graph_->num_owned(); ++row, force += 3) {
    if (!std::isfinite(force[0] + force[1] + force[2])) {
      throw std::runtime_error(
          fmt::format("the force on atom {} is ({}, {}, {}); the model has met a structure far from "
                      "all it was trained on",
                      graph_->id_of_row(row), force[0], force[1], force[2]));
    }
    for (int k = 0; k < 3; ++k) atom->f[graph_->atom_of_row(row)][k] += energy_unit_ * force[k];
  }
}

/// Once: `centroid/stress/atom` is requested for heat currents.
void PairUIP::warn_of_heat_flux() {
  if (warned_of_heat_flux_ || !model_->metadata().message_passing) return;
  warned_of_heat_flux_ = true;
  if (comm->me != 0) return;
  error->warning(FLERR,
                 "model '{}' passes messages: energies of atoms depend on atoms beyond the cutoff, so the heat current "
                 "of 'compute heat/flux' is not that of the model (22 % off for Si, 77 % for NiO); the total virial is "
                 "exact",
                 model_->metadata().name);
}

/// -edge_vec (x) g of each edge. `stress/atom` counts it for the centre: for pairwise energies these are LAMMPS' usual
/// halves. `centroid/stress/atom` counts it for the neighbour, on whose motion that part of the centre's energy
/// depends: with it `compute heat/flux` is exact for models without message passing.
void PairUIP::add_edge_virial(const at::Tensor &edge_grad) {
  add_virial(graph_->assembler().virial_of_centres(edge_grad), 1.0);
  if (!cvflag_atom) return;
  const auto of_neighbors =
      ranks_.ghost_reduce(graph_->assembler().virial_of_neighbors(edge_grad), graph_->num_owned());
  add_centroid_virial(of_neighbors, 1.0);
}

/// A multiple of a matrix of each atom, (N, 9) row by row, to the virial and that of atoms.
void PairUIP::add_virial(const at::Tensor &matrices, double factor) {
  const double *matrix = matrices.const_data_ptr<double>();
  for (int64_t row = 0; row < graph_->num_owned(); ++row, matrix += 9) {
    const auto six = six_components(nine_components(matrix, factor * energy_unit_));
    for (int k = 0; k < 6 && vflag_global; ++k) virial[k] += six[k];
    for (int k = 0; k < 6 && vflag_atom; ++k) vatom[graph_->atom_of_row(row)][k] += six[k];
  }
}

void PairUIP::add_centroid_virial(const at::Tensor &matrices, double factor) {
  const double *matrix = matrices.const_data_ptr<double>();
  for (int64_t row = 0; row < graph_->num_owned(); ++row, matrix += 9) {
    const auto nine = nine_components(matrix, factor * energy_unit_);
    for (int k = 0; k < 9; ++k) cvatom[graph_->atom_of_row(row)][k] += nine[k];
  }
}

/// -strain_grad of each atom.
void PairUIP::add_atom_virial(const at::Tensor &strain_grad) {
  add_virial(strain_grad, -1.0);
  if (cvflag_atom) add_centroid_virial(strain_grad, -1.0);
}

/// A model that predicts forces directly has no virial: pressures are nan.
void PairUIP::mark_virial_unknown() {
  constexpr double unknown = std::numeric_limits<double>::quiet_NaN();
  if (vflag_global) std::fill_n(virial, 6, unknown);
  for (int64_t row = 0; row < graph_->num_owned(); ++row) {
    if (vflag_atom) std::fill_n(vatom[graph_->atom_of_row(row)], 6, unknown);
    if (cvflag_atom) std::fill_n(cvatom[graph_->atom_of_row(row)], 9, unknown);
  }
}

void PairUIP::keep_magmoms(const at::Tensor &magmoms) {
  const double *values = magmoms.const_data_ptr<double>();
  magmoms_.assign(atom->nmax, 0.0);
  for (int64_t row = 0; row < graph_->num_owned(); ++row) magmoms_[graph_->atom_of_row(row)] = values[row];
  pvector[TOTAL_MAGMOM] = std::accumulate(values, values + graph_->num_owned(), 0.0);
}

}  // namespace uip::lammps
