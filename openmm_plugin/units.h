// OpenMM counts in nm and kJ/mol, models in A and eV. The values are those of uip/units.py.
#pragma once

namespace uip::openmm {

constexpr double EV_TO_KJ_PER_MOL = 96.48533212331002;
constexpr double A_TO_NM = 0.1;
constexpr double NM_TO_A = 10.0;

}  // namespace uip::openmm
