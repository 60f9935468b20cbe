// SPDX-License-Identifier: GPL-2.0-only
// The part of PairUIP for calibrated models (uip/models/uncertainty.py): uncertainties of energies.
#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <lammps/atom.h>
#include <lammps/comm.h>

#include <algorithm>
#include <cmath>

#include "pair_uip.h"
#include "schema.h"

namespace uip::lammps {

bool PairUIP::has_uncertainty() const {
  return model_ && others_.empty() && has(model_->metadata().outputs, schema::uncertainty_vectors);
}

/// Lengths of the vectors of atoms, and of their sum over all ranks, which `compute pair` reads on rank 0. Collective.
void PairUIP::keep_uncertainty(const Tensors &outputs) {
  if (!has_uncertainty()) return;
  const auto vectors = outputs.at(schema::uncertainty_vectors).to(at::kCPU, at::kDouble).contiguous();
  const auto lengths = at::linalg_vector_norm(vectors, 2, at::IntArrayRef{1}).contiguous();
  const double *length = lengths.const_data_ptr<double>();
  uncertainty_.assign(atom->nmax, 0.0);
  for (int64_t row = 0; row < graph_->num_owned(); ++row) {
    uncertainty_[graph_->atom_of_row(row)] = energy_unit_ * length[row];
  }
  const auto sum = vectors.sum(0).contiguous();
  const double *mine = sum.const_data_ptr<double>();
  double square = 0.0;
  for (const double each : ranks_.sum({mine, mine + sum.numel()})) square += each * each;
  if (comm->me == 0) pvector[ENERGY_UNCERTAINTY] = energy_unit_ * std::sqrt(square);
}

/// Of a step in which a repulsion replaces the model.
void PairUIP::forget_uncertainty() {
  std::fill(uncertainty_.begin(), uncertainty_.end(), 0.0);
  pvector[ENERGY_UNCERTAINTY] = 0.0;
}

}  // namespace uip::lammps
