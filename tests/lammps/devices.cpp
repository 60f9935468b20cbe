// Which GPU each rank uses, without any GPU.
#include "devices.h"

#include <iostream>
#include <map>

namespace {

using namespace uip::lammps;

void check(bool holds, const char *what) {
  if (holds) return;
  std::cerr << "this must hold: " << what << "\n";
  std::exit(1);
}

std::optional<NodePlace> place(const std::map<std::string, const char *> &variables) {
  return place_from_launcher([&](const char *name) {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second;
  });
}

void ranks_of_a_computer_use_its_gpus_in_turn() {
  check(choose_gpu("auto", 4, {0, 4}) == 0 && choose_gpu("auto", 4, {3, 4}) == 3, "one GPU for each rank");
  check(choose_gpu("cuda", 2, {2, 4}) == 0 && choose_gpu("cuda", 2, {3, 4}) == 1, "ranks share GPUs evenly");
  check(choose_gpu("cpu", 2, {1, 4}) == -1 && choose_gpu("auto", 0, {1, 4}) == -1, "no GPU");
}

void partitions_of_one_rank_use_different_gpus() {
  const NodePlace in_partition{0, 1};
  const auto launched = place({{"MPI_LOCALRANKID", "3"}, {"MPI_LOCALNRANKS", "4"}});
  check(choose_gpu("auto", 4, place_among_partitions(launched, 7, in_partition)) == 3, "the launcher's number counts");
  for (int rank = 0; rank < 4; ++rank) {
    check(choose_gpu("auto", 4, place_among_partitions(std::nullopt, rank, in_partition)) == rank,
          "without it, that in the universe");
  }
}

void launchers_are_understood() {
  const auto slurm = place({{"SLURM_LOCALID", "2"}});
  check(slurm && slurm->rank == 2 && slurm->num_ranks == 3, "at least as many ranks as the number");
  const auto open_mpi = place({{"OMPI_COMM_WORLD_LOCAL_RANK", "1"}, {"OMPI_COMM_WORLD_LOCAL_SIZE", "8"}});
  check(open_mpi && open_mpi->rank == 1 && open_mpi->num_ranks == 8, "Open MPI");
  check(!place({}), "no launcher");
}

void messages() {
  check(missing_gpu("auto", 0, 1).empty() && missing_gpu("cuda", 1, 1).empty(), "no GPU is missing");
  check(missing_gpu("cuda", 0, 5).find("the computer of rank 5 shows none") != std::string::npos, "a GPU is missing");
  check(shared_gpu(0, {0, 4}).empty() && shared_gpu(4, {0, 4}).empty(), "nothing is shared");
  check(shared_gpu(2, {0, 4}) == "4 ranks of a computer share 2 visible GPUs; one rank per GPU is faster", "shared");
}

}  // namespace

int main() {
  ranks_of_a_computer_use_its_gpus_in_turn();
  partitions_of_one_rank_use_different_gpus();
  launchers_are_understood();
  messages();
  std::cout << "all holds\n";
}
