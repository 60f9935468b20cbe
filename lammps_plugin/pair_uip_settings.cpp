// SPDX-License-Identifier: GPL-2.0-only
// Settings of pair_style, and restart files, which store them and those of pair_coeff.
#include <lammps/atom.h>
#include <lammps/comm.h>
#include <lammps/error.h>
#include <lammps/fmt/format.h>
#include <lammps/utils.h>

#include <algorithm>
#include <array>

#include "pair_uip.h"
#include "schema.h"

namespace uip::lammps {
namespace {

namespace utils = LAMMPS_NS::utils;

void write_text(FILE *file, const std::string &text) {
  const auto length = static_cast<int>(text.size());
  std::fwrite(&length, sizeof(length), 1, file);
  std::fwrite(text.data(), 1, text.size(), file);
}

std::string read_text(FILE *file, LAMMPS_NS::Error *error) {
  int length = 0;
  utils::sfread(FLERR, &length, sizeof(length), 1, file, nullptr, error);
  std::string text(length, ' ');
  utils::sfread(FLERR, text.data(), 1, length, file, nullptr, error);
  return text;
}

}  // namespace

void PairUIP::settings(int narg, char **arg) { apply_settings({arg, arg + narg}); }

/// Keywords and their values, as after `pair_style uip`.
void PairUIP::apply_settings(const std::vector<std::string> &arguments) {
  device_ = attention_ = "auto";
  charge_and_spin_ = {};
  for (size_t k = 0; k < arguments.size(); k += 2) {
    const std::string &keyword = arguments[k], value = k + 1 < arguments.size() ? arguments[k + 1] : "";
    if (keyword == "device") {
      device_ = value;
    } else if (keyword == "charge") {
      charge_and_spin_.charge = whole_number(keyword, value);
    } else if (keyword == "spin") {
      charge_and_spin_.spin = whole_number(keyword, value);
    } else if (keyword == "attention") {
      attention_ = value;
    } else {
      error->all(FLERR,
                 "pair_style uip: unknown keyword '{}'; write 'pair_style uip [device auto|cpu|cuda] [charge INTEGER] "
                 "[spin MULTIPLICITY] [attention auto|gather|ring]', and the model file in pair_coeff",
                 keyword);
    }
  }
  check_settings();
  using Attention = MpiComm::Attention;
  ranks_.set_attention(attention_ == "gather" ? Attention::gather
                       : attention_ == "ring" ? Attention::ring
                                              : Attention::automatic);
}

void PairUIP::check_settings() const {
  if (device_ != "auto" && device_ != "cpu" && device_ != "cuda") {
    error->all(FLERR, "pair_style uip: 'device' must be auto, cpu or cuda, got '{}'", device_);
  }
  const auto &[charge, spin] = charge_and_spin_;
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
  if (attention_ != "auto" && attention_ != "gather" && attention_ != "ring") {
    error->all(FLERR, "pair_style uip: 'attention' must be auto, gather or ring, got '{}'", attention_);
  }
}

int PairUIP::whole_number(const std::string &keyword, const std::string &value) const {
  if (!utils::is_integer(value)) {
    error->all(FLERR, "pair_style uip: '{}' must be a whole number, got '{}'", keyword, value);
  }
  return utils::inumeric(FLERR, value, false, lmp);
}

/// The arguments of `apply_settings`.
std::string PairUIP::settings_text() const {
  return fmt::format("device {} charge {} spin {} attention {}", device_, charge_and_spin_.charge,
                     charge_and_spin_.spin, attention_);
}

void PairUIP::write_restart(FILE *file) {
  write_restart_settings(file);
  for (const auto &text : {path_, model_->metadata().hash, utils::join_words(elements_, " ")}) write_text(file, text);
}

void PairUIP::write_restart_settings(FILE *file) { write_text(file, settings_text()); }

void PairUIP::read_restart_settings(FILE *file) {
  apply_settings(utils::split_words(ranks_.text_of_rank_0(comm->me == 0 ? read_text(file, error) : "")));
}

/// Reads the model that wrote the restart file; if it is gone or has changed, a new pair_coeff may still follow.
void PairUIP::read_restart(FILE *file) {
  read_restart_settings(file);
  std::array<std::string, 3> texts;
  for (auto &text : texts) text = ranks_.text_of_rank_0(comm->me == 0 ? read_text(file, error) : "");
  const auto &[path, hash, elements] = texts;
  auto problem = read_model(path);
  if (problem.empty() && model_->metadata().hash != hash) {
    problem = fmt::format("'{}' has sha256 {}", path, model_->metadata().hash);
  }
  if (problem.empty()) return load(path, utils::split_words(elements));
  model_.reset();
  restart_problem_ = fmt::format(
      "the run must continue with the model file that wrote the restart file, '{}' with sha256 "
      "{}, but {}; restore it, or give a new pair_coeff after read_restart",
      path, hash, problem);
  allocate();
  // LAMMPS then calls init_style, which reports the problem
  for (int i = 1; i <= atom->ntypes; ++i) std::fill_n(setflag[i], atom->ntypes + 1, 1);
}

}  // namespace uip::lammps
