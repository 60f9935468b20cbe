// An OpenMM Force that runs a file written by `uip export`: energy and forces of a whole System or of some of its
// particles, on every platform of OpenMM, without Python. C++ programs load it with
//     OpenMM::Platform::loadPluginLibrary("libuipopenmm.so")
// and then read a System from XML, or link this library and add a UipForce. Python: uip/openmm.
#pragma once

#include <openmm/Context.h>
#include <openmm/Force.h>

#include <memory>
#include <string>
#include <vector>

#include "model_file.h"

namespace uip::openmm {

/// Settings beside the model.
struct Settings {
  std::vector<int> atomic_numbers;  // of each atom of the model; 1 = H
  std::vector<int> particles;       // their places in the System; empty = all particles, in order
  bool periodic = false;            // whether neighbours are sought across the periodic box
  int charge = 0;                   // total charge, e
  int spin = 1;                     // multiplicity 2S + 1
  double skin = 0.05;               // nm; neighbours are sought again when atoms may have moved by half of it
  std::string path;                 // of the model file; empty: read from XML
  bool embed = true;                // true: XML contains the model; false: its path
};

/// Results for the current state; eV and mu_B.
struct Results {
  double energy = 0.0;
  std::vector<double> node_energy;  // of each atom
  std::vector<double> magmoms;      // of each atom; empty if the model has none
  std::vector<double> virial;       // 9: minus the strain derivative of the energy; empty for direct forces
};

/// Times and numbers of calls of a Context.
struct Counters {
  long num_evaluations = 0, num_searches = 0;
  double neighbor_seconds = 0.0, program_seconds = 0.0, total_seconds = 0.0;
};

class UIP_EXPORT UipForce final : public OpenMM::Force {
 public:
  /// Throws OpenMM::OpenMMException for settings that contradict each other or the model.
  UipForce(std::shared_ptr<const ModelFile> model, Settings settings);

  const ModelFile &model() const { return *model_; }
  const Settings &settings() const { return settings_; }
  int num_atoms() const { return static_cast<int>(settings_.atomic_numbers.size()); }
  /// The place of an atom in the System.
  int particle(int atom) const { return settings_.particles.empty() ? atom : settings_.particles[atom]; }

  /// New total charge and spin; `updateParametersInContext` applies them to a Context.
  void set_charge_and_spin(int charge, int spin);
  void updateParametersInContext(OpenMM::Context &context);

  /// Evaluates the model for the current state of the Context, unless that state was evaluated last.
  const Results &results(OpenMM::Context &context) const;
  const Counters &counters(OpenMM::Context &context) const;

  bool usesPeriodicBoundaryConditions() const override { return settings_.periodic; }

 protected:
  OpenMM::ForceImpl *createImpl() const override;

 private:
  std::shared_ptr<const ModelFile> model_;
  Settings settings_;
};

}  // namespace uip::openmm
