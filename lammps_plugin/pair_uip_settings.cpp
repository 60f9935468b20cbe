// SPDX-License-Identifier: GPL-2.0-only
// Settings of pair_style, and restart files, which store them and those of pair_coeff.
#include <lammps/atom.h>
#include <lammps/comm.h>
#include <lammps/error.h>
#include <lammps/fmt/format.h>
#include <lammps/utils.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>
#include <sstream>

#include "pair_uip.h"
#include "schema.h"

namespace uip::lammps {
namespace {

namespace utils = LAMMPS_NS::utils;

constexpr int longest_text = 1 << 20;  // of a path, settings or element names in a restart file

void write_text(FILE *file, const std::string &text) {
  const auto length = static_cast<int>(text.size());
  std::fwrite(&length, sizeof(length), 1, file);
  std::fwrite(text.data(), 1, text.size(), file);
}

std::string read_text(FILE *file, LAMMPS_NS::Error *error) {
  int length = 0;
  utils::sfread(FLERR, &length, sizeof(length), 1, file, nullptr, error);
  if (length < 0 || length > longest_text) {
    error->one(FLERR, "pair_style uip: the restart file is damaged; use another one");
  }
  std::string text(length, ' ');
  utils::sfread(FLERR, text.data(), 1, length, file, nullptr, error);
  return text;
}

std::vector<std::string> lines_of(const std::string &text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::string file_name(const std::string &path) { return std::filesystem::path(path).filename().string(); }

}  // namespace

void PairUIP::settings(int narg, char **arg) {
  is_restart_ = false;
  apply_settings({arg, arg + narg});
}

/// Keywords and their values, as after `pair_style uip`. Settings in use stay if there is an error.
void PairUIP::apply_settings(const std::vector<std::string> &arguments) {
  settings_ = read_settings(arguments);
  deviation_file_.reset();
  using Attention = MpiComm::Attention;
  ranks_.set_attention(settings_.attention == "gather" ? Attention::gather
                       : settings_.attention == "ring" ? Attention::ring
                                                       : Attention::automatic);
}

PairUIP::Settings PairUIP::read_settings(const std::vector<std::string> &arguments) const {
  Settings settings;
  std::set<std::string> given;
  for (size_t k = 0; k < arguments.size(); k += 2) {
    const std::string &keyword = arguments[k], value = k + 1 < arguments.size() ? arguments[k + 1] : "";
    if (!given.insert(keyword).second) {
      error->all(FLERR, "pair_style uip: each keyword must be given once, but '{}' is there twice; remove one{}",
                 keyword, keyword == "trusted" ? ", and put all keys in one file" : "");
    }
    if (keyword == "device") {
      settings.device = value;
    } else if (keyword == "charge") {
      settings.charge_and_spin.charge = whole_number(keyword, value);
    } else if (keyword == "spin") {
      settings.charge_and_spin.spin = whole_number(keyword, value);
    } else if (keyword == "attention") {
      settings.attention = value;
    } else if (keyword == "trusted") {
      settings.trusted = key_file(value);
    } else if (keyword == "committee") {
      settings.committee.is_given = true;
      --k;  // it has no value
    } else if (!read_committee_setting(settings.committee, keyword, value)) {
      error->all(FLERR,
                 "pair_style uip: unknown keyword '{}'; write 'pair_style uip [device auto|cpu|cuda] [charge INTEGER] "
                 "[spin MULTIPLICITY] [attention auto|gather|ring] [trusted KEYFILE] [committee [every N] "
                 "[forces mean|first] [file NAME] [warn DEVIATION]]', and the model file in pair_coeff",
                 keyword);
    }
  }
  check(settings);
  return settings;
}

/// Whether `keyword` is of a committee; `committee` must stand in front of it.
bool PairUIP::read_committee_setting(CommitteeSettings &committee, const std::string &keyword,
                                     const std::string &value) const {
  if (keyword == "every") {
    committee.every = whole_number(keyword, value);
  } else if (keyword == "forces") {
    committee.forces = value;
  } else if (keyword == "file") {
    committee.file = value;
  } else if (keyword == "warn") {
    committee.warn = utils::is_double(value) ? utils::numeric(FLERR, value, false, lmp) : -1.0;
  } else {
    return false;
  }
  if (!committee.is_given) error->all(FLERR, "pair_style uip: '{}' must follow the keyword 'committee'", keyword);
  if (committee.every < 1)
    error->all(FLERR, "pair_style uip: 'every' must be at least 1 step, got {}", committee.every);
  if (committee.forces != "mean" && committee.forces != "first") {
    error->all(FLERR, "pair_style uip: 'forces' must be mean or first, got '{}'", committee.forces);
  }
  if (keyword == "file" && (value.empty() || value.find('"') != std::string::npos)) {
    error->all(FLERR, "pair_style uip: 'file' must name a file for deviations, without quotes in its name, got '{}'",
               value);
  }
  if (keyword == "warn" && !(committee.warn > 0.0)) {
    error->all(FLERR, "pair_style uip: 'warn' must be a deviation of a force above 0, got '{}'", value);
  }
  return true;
}

void PairUIP::check(const Settings &settings) const {
  if (settings.device != "auto" && settings.device != "cpu" && settings.device != "cuda") {
    error->all(FLERR, "pair_style uip: 'device' must be auto, cpu or cuda, got '{}'", settings.device);
  }
  const auto &[charge, spin] = settings.charge_and_spin;
  if (charge < -schema::max_charge || charge > schema::max_charge) {
    error->all(FLERR, "pair_style uip: 'charge' must lie within +-{} e, got {}; it is that of the whole system",
               schema::max_charge, charge);
  }
  if (spin < 0 || spin > schema::max_spin) {
    error->all(FLERR,
               "pair_style uip: 'spin' must be a multiplicity 2S + 1 within 1 .. {}, or 0 for models of data without "
               "spin, got {}",
               schema::max_spin, spin);
  }
  if (settings.attention != "auto" && settings.attention != "gather" && settings.attention != "ring") {
    error->all(FLERR, "pair_style uip: 'attention' must be auto, gather or ring, got '{}'", settings.attention);
  }
}

int PairUIP::whole_number(const std::string &keyword, const std::string &value) const {
  if (!utils::is_integer(value)) {
    error->all(FLERR, "pair_style uip: '{}' must be a whole number, got '{}'", keyword, value);
  }
  return utils::inumeric(FLERR, value, false, lmp);
}

/// As an absolute path: restart files are read in other folders too.
std::string PairUIP::key_file(const std::string &value) const {
  if (value.empty() || value.find('"') != std::string::npos) {
    error->all(FLERR, "pair_style uip: 'trusted' must name a file of public keys, without quotes in its name, got '{}'",
               value);
  }
  return std::filesystem::absolute(value).lexically_normal().string();
}

/// The arguments of `apply_settings`.
std::string PairUIP::settings_text() const {
  const auto &s = settings_;
  return fmt::format("device {} charge {} spin {} attention {}", s.device, s.charge_and_spin.charge,
                     s.charge_and_spin.spin, s.attention) +
         (s.trusted.empty() ? "" : fmt::format(" trusted \"{}\"", s.trusted)) + committee_text();
}

std::string PairUIP::committee_text() const {
  const auto &c = settings_.committee;
  if (!c.is_given) return "";
  return fmt::format(" committee every {} forces {}", c.every, c.forces) +
         (c.file.empty() ? "" : fmt::format(" file \"{}\"", c.file)) +
         (c.warn > 0.0 ? fmt::format(" warn {}", c.warn) : "");
}

void PairUIP::write_restart(FILE *file) {
  write_restart_settings(file);
  const auto paths = utils::join_words(paths_, "\n"), hashes = utils::join_words(hashes_, "\n");
  for (const auto &text : {paths, hashes, utils::join_words(elements_, " ")}) write_text(file, text);
}

void PairUIP::write_restart_settings(FILE *file) { write_text(file, settings_text()); }

void PairUIP::read_restart_settings(FILE *file) {
  is_restart_ = true;
  apply_settings(utils::split_words(ranks_.text_of_rank_0(comm->me == 0 ? read_text(file, error) : "")));
}

/// Reads the model that wrote the restart file; if it is gone or has changed, a new pair_coeff may still follow.
void PairUIP::read_restart(FILE *file) {
  read_restart_settings(file);
  std::array<std::string, 3> texts;
  for (auto &text : texts) text = ranks_.text_of_rank_0(comm->me == 0 ? read_text(file, error) : "");
  paths_ = lines_of(texts[0]);
  hashes_ = lines_of(texts[1]);
  elements_ = utils::split_words(texts[2]);
  restart_problem_ = paths_.empty() ? "the restart file was written before a pair_coeff command; give one after "
                                      "read_restart"
                                    : restore_model();
  if (restart_problem_.empty()) return;
  allocate();
  // LAMMPS then calls init_style, which reports the problem
  for (int i = 1; i <= atom->ntypes; ++i) std::fill_n(setflag[i], atom->ntypes + 1, 1);
}

/// Uses the files that wrote the restart file, from their folders or from the current one; returns why it cannot, or
/// "". Collective.
std::string PairUIP::restore_model() {
  std::string first_problem;
  const auto elements = elements_;
  auto names = paths_;
  for (auto &name : names) name = file_name(name);
  for (const auto &paths : {paths_, names}) {
    auto [models, problem] = read_models(paths);
    for (size_t k = 0; k < models.size() && problem.empty(); ++k) {
      const auto &hash = models[k]->metadata().hash;
      if (hash != hashes_.at(k)) problem = fmt::format("'{}' has sha256 {}", paths[k], hash);
    }
    if (problem.empty()) {
      use_models(std::move(models), paths, elements);
      return "";
    }
    if (first_problem.empty()) first_problem = problem;
  }
  return fmt::format(
      "the run must continue with the model file that wrote the restart file, '{}' with sha256 {}, but {}; restore it "
      "there or in the current folder, or give a new pair_coeff after read_restart",
      utils::join_words(paths_, "', '"), utils::join_words(hashes_, ", "), first_problem);
}

}  // namespace uip::lammps
