// SPDX-License-Identifier: GPL-2.0-only
// Which GPU a rank uses. Decisions only, without MPI or CUDA: tests call them on any computer.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>

namespace uip::lammps {

/// A rank among those of its computer.
struct NodePlace {
  int rank = 0, num_ranks = 1;
};

/// From the variables of launchers; nothing if none is set. `variable(name)`: its value or nullptr, as std::getenv.
template <typename Variable>
std::optional<NodePlace> place_from_launcher(const Variable &variable) {
  constexpr std::pair<const char *, const char *> names[] = {
      {"MPI_LOCALRANKID", "MPI_LOCALNRANKS"},                        // Hydra of MPICH and Intel MPI
      {"OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},  // Open MPI
      {"MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"},    // MVAPICH
      {"PALS_LOCAL_RANKID", "PALS_LOCAL_SIZE"},                      // Cray
      {"SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"}};                   // srun
  for (const auto &[rank_name, size_name] : names) {
    const char *rank = variable(rank_name), *size = variable(size_name);
    if (rank == nullptr) continue;
    const int number = std::atoi(rank);
    return NodePlace{number, std::max(size == nullptr ? 1 : std::atoi(size), number + 1)};
  }
  return std::nullopt;
}

/// Of a rank in a run of several partitions, all of which share the GPUs. Partitions need not run the same commands, so
/// a collective call over all of them could wait forever. Without a launcher's variables: the rank in the universe.
inline NodePlace place_among_partitions(const std::optional<NodePlace> &launcher, int universe_rank,
                                        const NodePlace &in_partition) {
  return launcher ? *launcher : NodePlace{universe_rank, in_partition.num_ranks};
}

/// The GPU's number on its computer, -1 = none.
inline int choose_gpu(const std::string &device, int num_gpus, const NodePlace &place) {
  return device == "cpu" || num_gpus == 0 ? -1 : place.rank % num_gpus;
}

/// The error of `device cuda` on a rank; "" if none.
inline std::string missing_gpu(const std::string &device, int num_gpus, int rank) {
  if (device != "cuda" || num_gpus > 0) return "";
  return "pair_style uip: 'device cuda' needs a GPU, and the computer of rank " + std::to_string(rank) +
         " shows none; use 'device auto'";
}

/// A warning if ranks share GPUs; "" if they do not.
inline std::string shared_gpu(int num_gpus, const NodePlace &place) {
  if (num_gpus == 0 || place.num_ranks <= num_gpus) return "";
  return std::to_string(place.num_ranks) + " ranks of a computer share " + std::to_string(num_gpus) +
         (num_gpus == 1 ? " visible GPU" : " visible GPUs") + "; one rank per GPU is faster";
}

}  // namespace uip::lammps
