"""Units: every conversion factor in the package, and nothing else.

Inside uip: eV, A, mu_B, e. Conversions happen once, at a border.
Values: CODATA 2018 exact constants (e, N_A) and derived quantities.
"""

EV_PER_A3_TO_GPA = 160.21766208
"""Stress: 1 eV/A^3 in GPa, with the digits that the published CHGNet used."""

EV_TO_KJ_PER_MOL = 96.48533212331002
"""Energy: 1 eV in kJ/mol (e * N_A / 1000)."""

EV_TO_KCAL_PER_MOL = EV_TO_KJ_PER_MOL / 4.184
"""Energy: 1 eV in kcal/mol (thermochemical calorie)."""

A_TO_NM = 0.1
"""Length: 1 A in nm."""
