// SPDX-License-Identifier: GPL-2.0-only
// A committee: models with one graph, whose mean drives the run and whose spread tells how far to trust it. As in
// uip/inference/committee.py, over ranks:
//
//     force of atom i      sqrt( < |F_i^k - <F_i>|^2 > )
//     virial, component    sqrt( < (W_ab^k - <W_ab>)^2 > ) / N
//     energy               sqrt( < (E^k - <E>)^2 > )              < >: mean over the members k, 1 / n
//
// the model deviation of DP-GEN (Zhang et al., Computer Physics Communications 253, 107206 (2020)). Nothing of LAMMPS.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model.h"
#include "mpi_comm.h"

namespace uip::lammps {

using Tensors = std::map<std::string, at::Tensor>;

/// With spaces between.
std::string join(const std::vector<std::string> &names);

/// This rank's part of one member's results: eV, (N, 3) eV/A of its own atoms, and eV: xx yy zz xy xz yz yx zx zy.
struct MemberResult {
  double energy = 0.0;
  at::Tensor forces;
  std::array<double, 9> virial = {};
};

/// Largest, smallest and mean value.
struct Spread {
  double max = 0.0, min = 0.0, mean = 0.0;
};

/// Of the whole system, the same on all ranks, but for `atoms`.
struct Deviation {
  std::vector<double> atoms;  // of the forces on this rank's atoms, eV/A
  Spread force, virial;       // eV/A over atoms; eV/atom over the nine components, `mean` is a root of a mean square
  double energy = 0.0;        // eV, total
};

/// Which property of two models keeps them from sharing a graph, as a message; "" if none does.
std::string different_graph(const Metadata &first, const Metadata &other);
/// Means of the outputs of members, by name.
Tensors mean_of(const std::vector<Tensors> &outputs);
/// Collective.
Deviation deviation_of(const std::vector<MemberResult> &members, const MpiComm &comm);

/// An atom's id and the deviation of its force.
using Deviating = std::pair<int64_t, double>;
/// The `count` largest of all ranks, in descending order. Collective.
std::vector<Deviating> largest(std::vector<Deviating> mine, int count, const MpiComm &comm);

/// A file with a line per step, in the columns of DeePMD-kit's `out_file`.
class DeviationFile {
 public:
  /// `append`: after what is in the file already. Throws std::runtime_error if it cannot be written.
  DeviationFile(const std::string &path, bool append);
  /// Forces and virials times `unit`. A step is written once, but `again` where its numbers differ.
  void write(int64_t step, const Deviation &deviation, double unit, bool again);

 private:
  struct Close {
    void operator()(std::FILE *file) const { std::fclose(file); }
  };
  std::unique_ptr<std::FILE, Close> file_;
  int64_t last_step_ = -1;
  std::string last_line_;
};

}  // namespace uip::lammps
