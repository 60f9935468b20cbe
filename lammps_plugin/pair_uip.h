// SPDX-License-Identifier: GPL-2.0-only
// pair_style uip [device auto|cpu|cuda] [charge INTEGER] [spin MULTIPLICITY] [attention auto|gather|ring]
//                [trusted KEYFILE] [committee [every N] [forces mean|first] [file NAME] [warn DEVIATION]]
// pair_coeff * * FILE... ELEMENT-OR-NULL...     one element per LAMMPS type; several files are a committee
//
// Runs a file written by `uip export` in LAMMPS. This class implements LAMMPS' functions of a pair style; atoms become
// tensors in atoms_to_graph, messages are in mpi_comm, deviations in committee, libuip reads and runs programs.
#pragma once

#include <lammps/pair.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "atoms_to_graph.h"
#include "committee.h"
#include "devices.h"
#include "model.h"
#include "mpi_comm.h"

namespace uip::lammps {

/// Whether `name` is among names of inputs or outputs.
inline bool has(const std::vector<std::string> &names, const char *name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

inline at::Tensor on_host(const at::Tensor &x) { return x.to(at::kCPU, at::kDouble).contiguous(); }

class PairUIP final : public LAMMPS_NS::Pair {
 public:
  explicit PairUIP(LAMMPS_NS::LAMMPS *lmp);
  ~PairUIP() override;

  void settings(int narg, char **arg) override;
  void coeff(int narg, char **arg) override;
  void init_style() override;
  void init_list(int id, LAMMPS_NS::NeighList *list) override;
  double init_one(int i, int j) override;
  void compute(int eflag, int vflag) override;

  /// Of atoms; 0 for those that are not in the graph. "magmoms": mu_B. "deviation": of the forces of a committee.
  /// "uncertainty": of the energies of a calibrated model.
  void *extract_peratom(const char *name, int &num_columns) override;
  int pack_forward_comm(int n, int *list, double *buffer, int pbc_flag, int *pbc) override;
  void unpack_forward_comm(int n, int first, double *buffer) override;
  double memory_usage() override;

  void write_restart(FILE *file) override;
  void read_restart(FILE *file) override;
  void write_restart_settings(FILE *file) override;
  void read_restart_settings(FILE *file) override;

 private:
  /// The values of `compute pair`, of the last step; summed over ranks.
  enum {
    TOTAL_MAGMOM,
    NUM_GHOSTS,
    NUM_EDGES,
    NUM_ANGLES,
    BYTES_SENT,
    PROGRAM_SECONDS,
    MESSAGES_SENT,
    MAX_FORCE_DEVIATION,
    MIN_FORCE_DEVIATION,
    MEAN_FORCE_DEVIATION,
    ENERGY_DEVIATION,
    MAX_VIRIAL_DEVIATION,
    MIN_VIRIAL_DEVIATION,
    MEAN_VIRIAL_DEVIATION,
    ENERGY_UNCERTAINTY,
    NUM_EXTRA
  };

  /// Arguments of pair_style behind `committee`.
  struct CommitteeSettings {
    bool is_given = false;
    int every = 1;                // steps between deviations
    std::string forces = "mean";  // which forces drive the run: of all members, or of the "first"
    std::string file;             // of deviations; "": none
    double warn = 0.0;            // deviation of a force above which atoms are named; 0 = never
  };
  /// Arguments of pair_style.
  struct Settings {
    std::string device = "auto", attention = "auto";
    std::string trusted;  // a file of public keys; "": all model files are accepted
    ChargeAndSpin charge_and_spin = {};
    CommitteeSettings committee = {};
  };
  void apply_settings(const std::vector<std::string> &arguments);
  std::string settings_text() const;
  std::string committee_text() const;
  Settings read_settings(const std::vector<std::string> &arguments) const;
  bool read_committee_setting(CommitteeSettings &committee, const std::string &keyword, const std::string &value) const;
  void check(const Settings &settings) const;
  int whole_number(const std::string &keyword, const std::string &value) const;
  std::string key_file(const std::string &value) const;
  void allocate();

  struct ReadModel {
    std::unique_ptr<Model> model;
    std::string problem;  // "": none
  };
  struct ReadModels {
    std::vector<std::unique_ptr<Model>> models;
    std::string problem;
  };
  std::string restore_model();
  void load(const std::vector<std::string> &paths, const std::vector<std::string> &elements);
  ReadModels read_models(const std::vector<std::string> &paths);
  ReadModel read_model(const std::string &path);
  template <typename Work>
  std::string first_problem(const std::string &path, const Work &work) const;
  std::string different_file(const std::string &path, const Model &model) const;
  std::string different_trust() const;
  void use_models(std::vector<std::unique_ptr<Model>> models, const std::vector<std::string> &paths,
                  const std::vector<std::string> &elements);
  int find_gpu() const;
  NodePlace place_on_node() const;
  void warn_of_shared_gpus() const;
  void check_model(const Model &model) const;
  std::vector<int64_t> numbers_of(const Metadata &metadata, const std::vector<std::string> &elements) const;
  void announce(const Model &model, const std::string &path, const std::vector<std::string> &elements) const;
  double energy_unit() const;
  void check_trusted() const;
  void check_committee() const;
  void check_different() const;
  void check_charge_and_spin() const;
  void check_masses() const;
  std::vector<double> mass_extremes() const;
  void check_special_bonds() const;
  void check_exclusions() const;
  int absent_bits() const;

  void rebuild();
  struct Step {
    Box box;       // of the edges' vectors
    bool overlap;  // on any rank
  };
  Step find_edges(const at::Tensor &positions);
  void warn_of_overlap();
  Tensors run(Model &model, const Tensors &inputs);
  void store(const Tensors &outputs);
  void add_gradients(const Tensors &outputs);
  at::Tensor forces_of_gradients(const Tensors &outputs);
  void add_energies(const at::Tensor &node_energy);
  void add_forces(const at::Tensor &forces);
  void warn_of_heat_flux();
  void add_edge_virial(const at::Tensor &edge_grad);
  void add_atom_virial(const at::Tensor &strain_grad);
  void add_virial(const at::Tensor &matrices, double factor);
  void add_centroid_virial(const at::Tensor &matrices, double factor);
  void mark_virial_unknown();
  void keep_magmoms(const at::Tensor &magmoms);

  void check_quantity(const std::string &name) const;
  void check_deviation_step() const;
  bool deviation_is_due() const;
  std::vector<Tensors> run_members(const Tensors &inputs);
  MemberResult member_result(const Tensors &outputs);
  void keep_deviation(const std::vector<Tensors> &outputs);
  void write_deviation(const Deviation &deviation);
  void warn_of_extrapolation(const Deviation &deviation);

  bool has_uncertainty() const;
  void keep_uncertainty(const Tensors &outputs);
  void forget_uncertainty();

  /// Calls `work`; an exception on this rank aborts the run (error->one).
  template <typename Work>
  auto abort_on_error(Work work);
  /// Calls `work`, which sends no messages; an exception on any rank ends the run on all (error->all). Collective.
  /// Returns which of the flags that the work returned are set on any rank.
  template <typename Work>
  MpiComm::Flags agree_on_errors(Work work);
  std::string report(const std::exception &cause) const;

  MpiComm ranks_;
  std::unique_ptr<Model> model_;
  std::vector<std::unique_ptr<Model>> others_;  // of a committee, after the first
  std::unique_ptr<AtomsToGraph> graph_;
  Settings settings_;
  std::string trusted_when_read_;  // `settings_.trusted` when the model in use was read
  std::string restart_problem_;
  std::vector<std::string> paths_, hashes_;  // of model files, as restart files keep them
  std::vector<std::string> elements_;        // of pair_coeff, by type
  std::vector<int64_t> number_of_type_;      // atomic numbers; 0 = NULL
  bool plan_is_ready_ = false, warned_of_heat_flux_ = false, warned_of_overlap_ = false;
  double energy_unit_ = 1.0;     // 1 eV in LAMMPS' unit
  std::vector<Origin> origins_;  // of all atoms, while a plan is made
  std::vector<double> magmoms_, deviation_, uncertainty_;
  std::unique_ptr<DeviationFile> deviation_file_;  // of rank 0
  bool is_restart_ = false;                        // settings come from a restart file
  int64_t next_warning_ = 0;                       // step before which extrapolation is not warned of again
};

}  // namespace uip::lammps
