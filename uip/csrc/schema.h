// Written by `python -m uip.schema` from uip/schema.py; do not edit.
#pragma once

namespace uip::schema {

constexpr int version = 1;
// Limits of total charge (+-, e) and multiplicity (0 .. )
constexpr int max_charge = 100, max_spin = 100;

// Inputs
// [R] int64: 1 = H; ghosts after owned atoms
constexpr const char *atomic_numbers = "atomic_numbers";
// [N 3] real, A: as given, not wrapped into the cell
constexpr const char *positions = "positions";
// [B 3 3] real, A: rows a, b, c; a missing cell vector is a zero row
constexpr const char *cell = "cell";
// [B 3] bool: periodic along a, b, c
constexpr const char *pbc = "pbc";
// [N] int64: graph of each owned atom
constexpr const char *graph_index = "graph_index";
// [2 E] int64: row 0 = centre i, row 1 = neighbour j; sorted by i
constexpr const char *edge_index = "edge_index";
// [E 3] int64, cells: whole cells added to j
constexpr const char *shifts = "shifts";
// [E 3] real, A: r_j - r_i + shifts @ cell
constexpr const char *edge_vec = "edge_vec";
// [E] int64: the edge (j -> i) with the opposite vector
constexpr const char *reverse_edge = "reverse_edge";
// [S] int64: the edges that are bonds, ascending
constexpr const char *bond_index = "bond_index";
// [S] int64: the bond (j -> i) with the opposite vector
constexpr const char *reverse_bond = "reverse_bond";
// [2 A] int64: two different bonds with the same centre; sorted by the first
constexpr const char *angle_index = "angle_index";
// [N M] int64: an atom's edges to its nearest neighbours, padded with -1
constexpr const char *nearest_edges = "nearest_edges";
// [N K] int64: an atom's bonds, padded with -1
constexpr const char *bond_slots = "bond_slots";
// [B] int64, e: total charge
constexpr const char *charge = "charge";
// [B] int64: spin multiplicity 2S + 1
constexpr const char *spin = "spin";

// Outputs
// [B] real, eV: total, never per atom
constexpr const char *energy = "energy";
// [N] real, eV: an atom's part of the energy
constexpr const char *node_energy = "node_energy";
// [E 3] real, eV/A: dE / d edge_vec
constexpr const char *edge_grad = "edge_grad";
// [N 3] real, eV/A: dE / d positions, without the part in edge_grad
constexpr const char *position_grad = "position_grad";
// [N 3 3] real, eV: an atom's part of dE / d eps, without the part in edge_grad
constexpr const char *strain_grad = "strain_grad";
// [N 3] real, eV/A: -dE / d positions
constexpr const char *forces = "forces";
// [B 3 3] real, eV: -stress * V (LAMMPS sign): minus the strain derivative dE / d eps
constexpr const char *virial = "virial";
// [B 3 3] real, eV/A^3: dE / d eps / V, positive under tension (ASE sign)
constexpr const char *stress = "stress";
// [N] real, mu_B: magnitude
constexpr const char *magmoms = "magmoms";
// [B] real, eV: of a committee: standard deviation of the energy
constexpr const char *energy_deviation = "energy_deviation";
// [N] real, eV/A: of a committee: square root of the variance of the force
constexpr const char *force_deviation = "force_deviation";
// [B 3 3] real, eV/atom: of a committee: standard deviation of virial / N
constexpr const char *virial_deviation = "virial_deviation";
// [B] real, eV: of a calibrated model: standard deviation of the energy
constexpr const char *energy_uncertainty = "energy_uncertainty";
// [N] real, eV: of a calibrated model: standard deviation of an atom's energy
constexpr const char *node_uncertainty = "node_uncertainty";
// [N H] real, eV: the length of a sum is the uncertainty of its energy
constexpr const char *uncertainty_vectors = "uncertainty_vectors";

}  // namespace uip::schema
