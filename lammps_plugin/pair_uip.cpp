// SPDX-License-Identifier: GPL-2.0-only
// Commands, and the checks before a run; pair_uip_model.cpp reads model files, pair_uip_settings.cpp has pair_style and
// restart files, pair_uip_compute.cpp each step.
#include "pair_uip.h"

#include <ATen/Parallel.h>
#include <lammps/atom.h>
#include <lammps/comm.h>
#include <lammps/error.h>
#include <lammps/fmt/format.h>
#include <lammps/force.h>
#include <lammps/group.h>
#include <lammps/memory.h>
#include <lammps/neighbor.h>
#include <lammps/update.h>
#include <lammps/utils.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "schema.h"

namespace uip::lammps {
namespace {

using LAMMPS_NS::NeighList;
namespace utils = LAMMPS_NS::utils;

constexpr double MASS_TOLERANCE = 0.2;  // g/mol: less than between neighbours in the periodic table; accepts 28 for Si

bool is_model_file(const std::string &word) {
  const auto end = word.rfind('.');
  return end != std::string::npos && (word.substr(end) == ".pt2" || word.substr(end) == ".pt");
}

}  // namespace

PairUIP::PairUIP(LAMMPS_NS::LAMMPS *lmp) : Pair(lmp), ranks_(world) {
  restartinfo = 1;
  one_coeff = 1;
  manybody_flag = 1;
  single_enable = 0;
  respa_enable = 0;
  no_virial_fdotr_compute = 1;  // the virial is a sum over edges
  centroidstressflag = LAMMPS_NS::CENTROID_AVAIL;
  comm_forward = Origin::size;  // set here: `pair_style hybrid` reads it when it is created
  nextra = NUM_EXTRA;
  pvector = new double[NUM_EXTRA]();
}

PairUIP::~PairUIP() {
  if (copymode) return;
  delete[] pvector;
  if (!allocated) return;
  memory->destroy(setflag);
  memory->destroy(cutsq);
}

void PairUIP::allocate() {
  const int size = atom->ntypes + 1;
  if (!allocated) {
    memory->create(setflag, size, size, "pair:setflag");
    memory->create(cutsq, size, size, "pair:cutsq");
  }
  allocated = 1;
  for (int i = 0; i < size; ++i) std::fill_n(setflag[i], size, 0);
}

void PairUIP::coeff(int narg, char **arg) {
  if (narg < 3) {
    error->all(FLERR,
               "pair_coeff of pair_style uip must be 'pair_coeff * * FILE' and an element or NULL for each "
               "LAMMPS type");
  }
  const std::vector<std::string> words(arg + 2, arg + narg);
  const auto elements = std::find_if_not(words.begin() + 1, words.end(), is_model_file);
  if (words.end() - elements != atom->ntypes) {
    error->all(FLERR, "pair_coeff must name one element (or NULL) for each of the {} LAMMPS types, got {}",
               atom->ntypes, words.end() - elements);
  }
  load({words.begin(), elements}, {elements, words.end()});
}

void PairUIP::init_style() {
  if (!model_) {
    error->all(FLERR, restart_problem_.empty() ? "pair_style uip needs a pair_coeff command" : restart_problem_);
  }
  energy_unit_ = energy_unit();
  check_trusted();
  check_committee();
  check_charge_and_spin();
  check_masses();
  check_special_bonds();
  check_exclusions();
  at::set_num_threads(comm->nthreads);
  // `pair_style hybrid` sizes the buffers of all its styles by its own value
  force->pair->comm_forward = std::max(force->pair->comm_forward, comm_forward);
  neighbor->add_request(this, LAMMPS_NS::NeighConst::REQ_FULL);
}

void PairUIP::init_list(int id, NeighList *list) {
  Pair::init_list(id, list);
  plan_is_ready_ = false;
}

double PairUIP::init_one(int i, int j) {
  if (setflag[i][j] == 0) error->all(FLERR, "pair_coeff must name the elements of types {} and {}", i, j);
  return model_->metadata().cutoff;
}

double PairUIP::energy_unit() const {
  const std::string units = update->unit_style;
  if (units == "metal") return 1.0;
  if (units == "real") return utils::get_conversion_factor(utils::ENERGY, utils::METAL2REAL);
  // one string: not in all versions of LAMMPS does the compiler know that the form with arguments never returns
  error->all(FLERR, "pair_style uip needs 'units metal' or 'units real', got '" + units + "'");
}

/// Deviations of zero would pass for certainty.
void PairUIP::check_different() const {
  for (size_t k = 0; k < hashes_.size(); ++k) {
    for (size_t other = 0; other < k; ++other) {
      if (hashes_[k] != hashes_[other]) continue;
      error->all(FLERR,
                 "pair_coeff: the models of a committee must differ, but '{}' and '{}' have the same content; their "
                 "deviations would be zero",
                 paths_[other], paths_[k]);
    }
  }
}

/// A later pair_style command changes what is asked for, and not the model in use.
void PairUIP::check_trusted() const {
  if (settings_.trusted.empty() || settings_.trusted == trusted_when_read_) return;
  error->all(FLERR,
             "pair_style uip: the model in use was read before 'trusted {}' was given; give pair_coeff again, which "
             "checks the signature",
             settings_.trusted);
}

void PairUIP::check_committee() const {
  if (settings_.committee.is_given == !others_.empty()) return check_different();
  if (others_.empty()) {
    error->all(
        FLERR,
        "pair_style uip: 'committee' needs two or more model files in pair_coeff, got 1; name more of them, each "
        "ending in .pt2 or .pt, in front of the elements");
  }
  error->all(FLERR,
             "pair_coeff names {} model files, which needs 'pair_style uip committee'; add this keyword, or name one "
             "file",
             1 + others_.size());
}

void PairUIP::check_charge_and_spin() const {
  const auto &metadata = model_->metadata();
  const auto &[charge, spin] = settings_.charge_and_spin;
  if (charge != 0 && !has(metadata.inputs, schema::charge)) {
    error->all(FLERR,
               "pair_style uip: model '{}' knows no total charge, so 'charge' must be 0, got {}; leave it out or use "
               "another model",
               metadata.name, charge);
  }
  if (spin != 1 && !has(metadata.inputs, schema::spin)) {
    error->all(FLERR,
               "pair_style uip: model '{}' knows no total spin, so 'spin' must be 1, got {}; leave it out or use "
               "another model",
               metadata.name, spin);
  }
}

/// Warns of types whose atoms have masses of other elements. Collective.
void PairUIP::check_masses() const {
  const auto extremes = ranks_.max(mass_extremes());
  if (comm->me != 0) return;
  for (int type = 1; type <= atom->ntypes; ++type) {
    const auto number = number_of_type_[type];
    if (number == 0) continue;
    const double expected = standard_mass(number);
    const double largest = extremes[2 * type], smallest = -extremes[2 * type + 1];
    const double mass = std::fabs(largest - expected) > std::fabs(smallest - expected) ? largest : smallest;
    if (!std::isfinite(mass) || std::fabs(mass - expected) <= MASS_TOLERANCE) continue;
    error->warning(FLERR,
                   "LAMMPS type {} is {} with a mass of {} g/mol, where {} is usual; check the order of names in "
                   "pair_coeff",
                   type, elements_[type - 1], mass, expected);
  }
}

/// The largest mass of each type and the largest negative mass, of types or, where LAMMPS has them, of atoms.
std::vector<double> PairUIP::mass_extremes() const {
  std::vector<double> extremes(2 * (atom->ntypes + 1), -std::numeric_limits<double>::infinity());
  const auto add = [&](int type, double mass) {
    extremes[2 * type] = std::max(extremes[2 * type], mass);
    extremes[2 * type + 1] = std::max(extremes[2 * type + 1], -mass);
  };
  if (atom->rmass_flag) {
    for (int i = 0; i < atom->nlocal; ++i) add(atom->type[i], atom->rmass[i]);
  } else if (atom->mass) {
    for (int type = 1; type <= atom->ntypes; ++type) {
      if (atom->mass_setflag[type]) add(type, atom->mass[type]);
    }
  }
  return extremes;
}

/// LAMMPS omits bonded neighbours from the list if their weights are zero; a model needs all neighbours.
void PairUIP::check_special_bonds() const {
  if (atom->molecular == LAMMPS_NS::Atom::ATOMIC) return;
  for (int k = 1; k < 4; ++k) {
    if (force->special_lj[k] != 0.0 || force->special_coul[k] != 0.0) continue;
    error->all(FLERR,
               "pair_style uip needs all neighbours, but special_bonds is 0 for 1-{} pairs; use "
               "'special_bonds lj/coul 1 1 1' (or 1e-50 in place of 0 if another style needs it)",
               k + 1);
  }
}

/// A model needs all neighbours. Exception: fixes of the MC package exclude the atoms that they try to delete.
void PairUIP::check_exclusions() const {
  bool is_complete = neighbor->includegroup == 0 && neighbor->nex_type == 0 && neighbor->nex_mol == 0;
  for (int k = 0; k < neighbor->nex_group; ++k) {
    const std::string name = group->names[neighbor->ex1_group[k]];
    const bool is_trial = name.rfind("Fix", 0) == 0 && name.find("exclusion_group:") != std::string::npos;
    is_complete = is_complete && is_trial;
  }
  if (is_complete) return;
  error->all(FLERR,
             "pair_style uip needs all neighbours, but 'neigh_modify exclude' (or 'include') leaves some out, which "
             "changes the energy; remove it, or use 'neigh_modify exclude none', and freeze atoms with fixes, for "
             "example 'fix ID group setforce 0 0 0'");
}

/// Group bits of the atoms that such a fix tries to delete: they are not in the graph.
int PairUIP::absent_bits() const {
  int bits = 0;
  for (int k = 0; k < neighbor->nex_group; ++k) bits |= neighbor->ex1_bit[k];
  return bits;
}

/// `fix pair` asks when it is created, and again in each of its steps.
void *PairUIP::extract_peratom(const char *name, int &num_columns) {
  const bool is_magmoms = strcmp(name, schema::magmoms) == 0, is_deviation = strcmp(name, "deviation") == 0;
  if (!is_magmoms && !is_deviation && strcmp(name, "uncertainty") != 0) return nullptr;
  check_quantity(name);
  if (is_deviation) check_deviation_step();
  num_columns = 0;
  auto &values = is_magmoms ? magmoms_ : is_deviation ? deviation_ : uncertainty_;
  if (values.size() < static_cast<size_t>(atom->nmax)) values.resize(atom->nmax, 0.0);
  return values.data();
}

/// Whether the model in use has a quantity of atoms.
void PairUIP::check_quantity(const std::string &name) const {
  if (!model_) {
    error->all(FLERR, "fix pair: '{}' of pair style uip needs a model; give pair_coeff in front of the fix", name);
  }
  if (name == schema::magmoms && !has(model_->metadata().outputs, schema::magmoms)) {
    error->all(FLERR, "fix pair: 'magmoms' needs a model with magnetic moments, but '{}' has none; leave it out",
               model_->metadata().name);
  }
  if (name == "deviation" && others_.empty()) {
    error->all(FLERR,
               "fix pair: 'deviation' needs a committee, but pair_coeff names one model; use 'pair_style uip "
               "committee' and name more model files");
  }
  if (name == "uncertainty" && !has_uncertainty()) {
    error->all(FLERR,
               "fix pair: 'uncertainty' needs one calibrated model; run 'uip calibrate' and export the checkpoint that "
               "it writes, or use 'deviation' of a committee");
  }
}

double PairUIP::memory_usage() {
  const auto own =
      static_cast<double>(origins_.capacity() * sizeof(Origin) +
                          sizeof(double) * (magmoms_.capacity() + deviation_.capacity() + uncertainty_.capacity()));
  return Pair::memory_usage() + own + (graph_ ? graph_->memory_usage() : 0.0);
}

}  // namespace uip::lammps
