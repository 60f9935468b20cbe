"""A molecule with a machine-learned potential in a classical solvent, switched on by lambda. See README.md."""

from openmm import LangevinMiddleIntegrator, Vec3, app, unit
from openmmml import MLPotential

forcefield = app.ForceField("amber14/tip3pfb.xml")
modeller = app.Modeller(app.Topology(), [])
modeller.addSolvent(forcefield, boxSize=Vec3(2.0, 2.0, 2.0) * unit.nanometer)
# the molecule loses its constraints: at lambda 0 the bonds that flexibleConstraints leaves in hold it together
classical = forcefield.createSystem(
    modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.9 * unit.nanometer, flexibleConstraints=True
)
molecule = [atom.index for atom in next(modeller.topology.residues()).atoms()]
potential = MLPotential("uip", modelPath="chgnet.pt2")
system = potential.createMixedSystem(modeller.topology, classical, molecule, interpolate=True)
integrator = LangevinMiddleIntegrator(300 * unit.kelvin, 1 / unit.picosecond, 0.5 * unit.femtosecond)
simulation = app.Simulation(modeller.topology, system, integrator)
simulation.context.setPositions(modeller.positions)
simulation.context.setParameter("lambda_interpolate", 0.0)
simulation.minimizeEnergy(maxIterations=50)
for value in (0.0, 0.5, 1.0):
    simulation.context.setParameter("lambda_interpolate", value)
    simulation.step(20)
    energy = simulation.context.getState(getEnergy=True).getPotentialEnergy()
    print(f"lambda {value:.1f}   energy {energy.value_in_unit(unit.kilojoule_per_mole):12.1f} kJ/mol")
