// SPDX-License-Identifier: GPL-2.0-only
// The part of PairUIP for committees: runs the members, keeps, writes and warns of their deviations.
#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <lammps/atom.h>
#include <lammps/comm.h>
#include <lammps/error.h>
#include <lammps/fmt/format.h>
#include <lammps/update.h>

#include <algorithm>
#include <iterator>
#include <limits>

#include "pair_uip.h"
#include "schema.h"

namespace uip::lammps {
namespace {

constexpr int64_t warning_interval = 1000;  // steps: LAMMPS prints 100 warnings at most
constexpr int num_named = 5;
constexpr int num_deviations = 7;  // for `compute pair`

}  // namespace

bool PairUIP::deviation_is_due() const {
  return !others_.empty() && update->ntimestep % settings_.committee.every == 0;
}

/// A `fix pair` that asks in other steps than those with deviations would get zeros, which look like certainty. LAMMPS
/// does not tell a pair style the fix's N: this is noticed in the first such step.
void PairUIP::check_deviation_step() const {
  if (update->whichflag == 0 || deviation_is_due()) return;
  const int every = settings_.committee.every;
  error->all(
      FLERR,
      "fix pair asks for deviations in step {}, but 'committee every {}' has them in multiples of {} only; let N "
      "of 'fix ID group pair N uip deviation 0' be a multiple of {}",
      update->ntimestep, every, every, every);
}

/// Outputs of all members, of the first alone where no others are needed. Collective.
std::vector<Tensors> PairUIP::run_members(const Tensors &inputs) {
  std::vector<Tensors> outputs = {run(*model_, inputs)};
  if (settings_.committee.forces == "first" && !deviation_is_due()) return outputs;
  for (const auto &model : others_) outputs.push_back(run(*model, inputs));
  return outputs;
}

/// Collective.
MemberResult PairUIP::member_result(const Tensors &outputs) {
  MemberResult result;
  result.energy = on_host(outputs.at(schema::node_energy)).sum().item<double>();
  const auto found = outputs.find(schema::edge_grad);
  if (found == outputs.end()) {
    result.forces = on_host(outputs.at(schema::forces));
    result.virial.fill(std::numeric_limits<double>::quiet_NaN());
    return result;
  }
  result.forces = forces_of_gradients(outputs);
  auto strain = -graph_->assembler().virial_of_centres(found->second).sum(0).view({3, 3});
  if (outputs.count(schema::strain_grad) > 0) strain = strain + on_host(outputs.at(schema::strain_grad)).sum(0);
  const auto virial = (-0.5 * (strain + strain.t())).contiguous();
  std::copy_n(virial.const_data_ptr<double>(), 9, result.virial.begin());
  return result;
}

/// Deviations of this step, if it has any. Collective.
void PairUIP::keep_deviation(const std::vector<Tensors> &outputs) {
  if (others_.empty()) return;
  // a zero would look like certainty
  constexpr double unknown = std::numeric_limits<double>::quiet_NaN();
  std::fill(deviation_.begin(), deviation_.end(), unknown);
  if (!deviation_is_due()) {
    if (deviation_.empty() && comm->me == 0) std::fill_n(pvector + MAX_FORCE_DEVIATION, num_deviations, unknown);
    return;
  }
  std::vector<MemberResult> members;
  for (const auto &each : outputs) members.push_back(member_result(each));
  const auto deviation = deviation_of(members, ranks_);
  deviation_.resize(atom->nmax, 0.0);
  for (int64_t row = 0; row < graph_->num_owned(); ++row) {
    deviation_[graph_->atom_of_row(row)] = energy_unit_ * deviation.atoms[row];
  }
  if (comm->me == 0) write_deviation(deviation);
  if (settings_.committee.warn > 0.0) warn_of_extrapolation(deviation);
}

/// On rank 0: for `compute pair`, which sums over ranks, and in the file.
void PairUIP::write_deviation(const Deviation &deviation) {
  const auto &force = deviation.force, &virial = deviation.virial;
  const double values[num_deviations] = {force.max,  force.min,  force.mean, deviation.energy,
                                         virial.max, virial.min, virial.mean};
  for (size_t k = 0; k < std::size(values); ++k) pvector[MAX_FORCE_DEVIATION + k] = energy_unit_ * values[k];
  const auto &name = settings_.committee.file;
  if (name.empty()) return;
  if (!deviation_file_) deviation_file_ = std::make_unique<DeviationFile>(name, is_restart_);
  // a minimiser evaluates a step several times, a script with 'run 0' several structures
  const bool is_minimising = update->whichflag == 2;
  deviation_file_->write(update->ntimestep, deviation, energy_unit_, !is_minimising);
}

/// Names the atoms that deviate most, at most once in `warning_interval` steps. Collective.
void PairUIP::warn_of_extrapolation(const Deviation &deviation) {
  const double limit = settings_.committee.warn;
  const bool is_reset = update->ntimestep < next_warning_ - warning_interval;  // by reset_timestep
  if (energy_unit_ * deviation.force.max <= limit || (update->ntimestep < next_warning_ && !is_reset)) return;
  next_warning_ = update->ntimestep + warning_interval;
  std::vector<Deviating> atoms;
  for (int64_t row = 0; row < graph_->num_owned(); ++row) {
    const double value = energy_unit_ * deviation.atoms[row];
    if (value > limit) atoms.emplace_back(graph_->id_of_row(row), value);
  }
  const auto count = static_cast<int64_t>(ranks_.sum({static_cast<double>(atoms.size())})[0]);
  std::string names;
  for (const auto &[id, value] : largest(std::move(atoms), num_named, ranks_)) {
    names += fmt::format("{}{} ({:.3g})", names.empty() ? "" : ", ", id, value);
  }
  if (comm->me != 0) return;
  error->warning(FLERR,
                 "pair uip at step {}: the committee extrapolates, forces on {} atoms deviate by more than {}, most on "
                 "{}; the next warning comes after {} steps or more",
                 update->ntimestep, count, limit, names, warning_interval);
}

}  // namespace uip::lammps
