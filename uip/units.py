"""Units: all conversion factors of the package.

Inside uip: eV, A, mu_B, e. Units are converted once, where data enters or leaves the package.
Values: CODATA 2018 exact constants (e, N_A) and derived quantities.
"""

EV_PER_A3_TO_GPA = 160.21766208
"""Stress: 1 eV/A^3 in GPa, with the digits of the published CHGNet."""

EV_TO_KJ_PER_MOL = 96.48533212331002
"""Energy: 1 eV in kJ/mol (e * N_A / 1000)."""

EV_TO_KCAL_PER_MOL = EV_TO_KJ_PER_MOL / 4.184
"""Energy: 1 eV in kcal/mol (thermochemical calorie)."""

A_TO_NM = 0.1
"""Length: 1 A in nm."""
