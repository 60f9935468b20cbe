// SPDX-License-Identifier: GPL-2.0-only
// Model files: read and checked on all ranks. The model in use is replaced only after all checks have passed: after
// a failed pair_coeff a run can continue with the old model.
#include <lammps/atom.h>
#include <lammps/comm.h>
#include <lammps/error.h>
#include <lammps/fmt/format.h>
#include <lammps/universe.h>
#include <lammps/utils.h>
#include <torch/cuda.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>

#include "checked_file.h"
#include "devices.h"
#include "pair_uip.h"
#include "schema.h"

namespace uip::lammps {
namespace {

namespace utils = LAMMPS_NS::utils;

/// Valid in other folders too. What cannot be resolved, for example in a folder that was deleted, stays.
std::string absolute(const std::string &path) {
  std::error_code ignored;
  const auto result = std::filesystem::absolute(path, ignored).lexically_normal();
  return ignored ? path : result.string();
}

std::string known_elements(const Metadata &metadata) {
  std::vector<std::string> symbols;
  for (const auto number : metadata.elements) symbols.push_back(element_symbol(number));
  return join(symbols);
}

}  // namespace

/// Uses another model on all ranks, or a committee of them, or ends with an error on all.
void PairUIP::load(const std::vector<std::string> &paths, const std::vector<std::string> &elements) {
  auto [models, problem] = read_models(paths);
  if (!problem.empty()) error->all(FLERR, "pair_coeff: " + problem);
  use_models(std::move(models), paths, elements);
}

/// All models, or the first error. Collective.
PairUIP::ReadModels PairUIP::read_models(const std::vector<std::string> &paths) {
  ReadModels result;
  for (const auto &path : paths) {
    auto [model, problem] = read_model(path);
    if (!problem.empty()) return {{}, problem};
    result.models.push_back(std::move(model));
  }
  return result;
}

/// The model, or the error of the first rank that has one. The first rank of each computer checks and unpacks the file
/// for the others. Collective.
PairUIP::ReadModel PairUIP::read_model(const std::string &path) {
  const int gpu = find_gpu();
  const auto trust = Trust::given(settings_.trusted);
  const bool is_first = ranks_.place_on_node().rank == 0;
  std::optional<CheckedFile> file;  // whose folder is removed when this function ends: then all ranks have loaded
  std::string folder;
  ReadModel result;
  result.problem = different_trust();
  if (!result.problem.empty()) return result;
  result.problem = first_problem(path, [&] {
    if (!is_first) return;
    file = CheckedFile::read(path, trust);
    folder = file->unpack();
  });
  if (!result.problem.empty()) return result;
  folder = ranks_.text_of_first_on_node(folder);
  result.problem = first_problem(path, [&] {
    if (!is_first) file = folder.empty() ? CheckedFile::read(path, trust) : CheckedFile::from_folder(path, folder);
    result.model = file->load(gpu);
  });
  if (result.problem.empty()) result.problem = different_file(path, *result.model);
  return result;
}

/// Whether not all ranks ask for the same signatures, as a message; "" if they do: one rank checks the file for others.
/// Collective.
std::string PairUIP::different_trust() const {
  const char *variable = std::getenv("UIP_TRUSTED");
  const auto mine = variable == nullptr ? std::string("not set") : fmt::format("'{}'", variable);
  const auto first = ranks_.text_of_rank_0(mine);
  const auto problem = fmt::format(
      "the environment variable UIP_TRUSTED must be the same on all ranks, but is {} on rank 0 and {} on rank {}; pass "
      "it to all of them, for example with 'mpiexec -genv UIP_TRUSTED FILE'",
      first, mine, ranks_.rank());
  return ranks_.first_text(mine == first ? "" : problem);
}

/// Calls `work` and returns the error of the first rank that has one, or "". Collective.
template <typename Work>
std::string PairUIP::first_problem(const std::string &path, const Work &work) const {
  std::string problem;
  try {
    work();
  } catch (const std::exception &cause) {
    problem = fmt::format("rank {} cannot use '{}': {}", ranks_.rank(), path, cause.what());
  }
  return ranks_.first_text(problem);
}

/// Whether a rank read another file than rank 0, as a message; "" if none did. Collective.
std::string PairUIP::different_file(const std::string &path, const Model &model) const {
  const auto &mine = model.metadata().hash;
  const auto first = ranks_.text_of_rank_0(mine);
  const auto problem = fmt::format(
      "all ranks must read the same model file, but '{}' has sha256 {} on rank 0 and {} on rank {}; copy one file to "
      "all "
      "computers, or use a shared folder",
      path, first, mine, ranks_.rank());
  return ranks_.first_text(mine == first ? "" : problem);
}

void PairUIP::use_models(std::vector<std::unique_ptr<Model>> models, const std::vector<std::string> &paths,
                         const std::vector<std::string> &elements) {
  std::vector<int64_t> numbers;
  for (const auto &model : models) {
    check_model(*model);
    const auto difference = different_graph(models[0]->metadata(), model->metadata());
    if (!difference.empty()) error->all(FLERR, "pair_coeff: " + difference);
    numbers = numbers_of(model->metadata(), elements);
  }
  const auto gpu = static_cast<c10::DeviceIndex>(find_gpu());
  const auto &metadata = models[0]->metadata();
  const auto device = metadata.device == "cuda" ? at::Device(at::kCUDA, gpu) : at::Device(at::kCPU);
  graph_ = std::make_unique<AtomsToGraph>(metadata, numbers, device, ranks_);  // before what it refers to
  paths_.clear();
  hashes_.clear();
  for (size_t k = 0; k < models.size(); ++k) {
    paths_.push_back(absolute(paths[k]));
    hashes_.push_back(models[k]->metadata().hash);
    if (comm->me == 0) announce(*models[k], paths[k], elements);
  }
  model_ = std::move(models[0]);
  others_.assign(std::make_move_iterator(models.begin() + 1), std::make_move_iterator(models.end()));
  number_of_type_ = std::move(numbers);
  elements_ = elements;
  trusted_when_read_ = settings_.trusted;
  plan_is_ready_ = warned_of_heat_flux_ = false;
  allocate();
  for (int i = 1; i <= atom->ntypes; ++i) {
    for (int j = 1; j <= atom->ntypes; ++j) setflag[i][j] = number_of_type_[i] != 0 && number_of_type_[j] != 0;
  }
  if (device.is_cuda()) warn_of_shared_gpus();
}

/// The GPU of this rank, counted on its computer; -1 = none. Collective.
int PairUIP::find_gpu() const {
  const int count = static_cast<int>(torch::cuda::device_count());
  const auto problem = ranks_.first_text(missing_gpu(settings_.device, count, ranks_.rank()));
  if (!problem.empty()) error->all(FLERR, problem);
  return choose_gpu(settings_.device, count, place_on_node());
}

/// Collective.
NodePlace PairUIP::place_on_node() const {
  const auto place = ranks_.place_on_node();
  if (!universe->existflag) return place;
  return place_among_partitions(place_from_launcher(&std::getenv), universe->me, place);
}

/// Unless each rank sees GPUs of its own. Collective.
void PairUIP::warn_of_shared_gpus() const {
  const char *variable = std::getenv("CUDA_VISIBLE_DEVICES");
  const std::string visible = variable == nullptr ? "" : variable;
  if (!ranks_.first_text(visible == ranks_.text_of_rank_0(visible) ? "" : "different").empty()) return;
  const auto text = ranks_.first_text(shared_gpu(static_cast<int>(torch::cuda::device_count()), place_on_node()));
  if (!text.empty() && comm->me == 0) error->warning(FLERR, "pair uip: " + text);
}

void PairUIP::check_model(const Model &model) const {
  const auto &metadata = model.metadata();
  if (settings_.device != "auto" && settings_.device != metadata.device) {
    error->all(FLERR,
               "pair_style uip: 'device {}' was requested, but the model file was exported for {}; export it "
               "again with 'uip export ... --device {}'",
               settings_.device, metadata.device, settings_.device);
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

/// The atomic number of each LAMMPS type, 0 = NULL; item 0 is unused.
std::vector<int64_t> PairUIP::numbers_of(const Metadata &metadata, const std::vector<std::string> &elements) const {
  std::vector<int64_t> numbers(1, 0);
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
    numbers.push_back(number);
  }
  return numbers;
}

void PairUIP::announce(const Model &model, const std::string &path, const std::vector<std::string> &elements) const {
  const auto &m = model.metadata();
  utils::logmesg(lmp, "pair uip: {} ({}, {}, {}), cutoff {} A, types {}\n", m.name, path, m.precision, m.device,
                 m.cutoff, join(elements));
  if (has(m.inputs, schema::charge)) {
    utils::logmesg(lmp, "  total charge {} e, multiplicity {}\n", settings_.charge_and_spin.charge,
                   settings_.charge_and_spin.spin);
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

}  // namespace uip::lammps
