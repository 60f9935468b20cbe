"""Rock salt at 300 K and 1 bar in OpenMM, with published CHGNet. See README.md."""

from sys import argv, stdout

from ase.build import bulk
from openmm import LangevinMiddleIntegrator, MonteCarloBarostat, app, unit
from openmmml import MLPotential

from uip.openmm import PressureReporter, topology_from_atoms

steps = int(argv[1]) if len(argv) > 1 else 1000
topology, positions = topology_from_atoms(bulk("NaCl", "rocksalt", a=5.69, cubic=True).repeat((2, 1, 1)))
system = MLPotential("uip", modelPath="chgnet.pt2").createSystem(topology)
system.addForce(MonteCarloBarostat(1 * unit.bar, 300 * unit.kelvin, 20))
integrator = LangevinMiddleIntegrator(300 * unit.kelvin, 5 / unit.picosecond, 2 * unit.femtosecond)
simulation = app.Simulation(topology, system, integrator)
simulation.context.setPositions(positions)
simulation.context.setVelocitiesToTemperature(300 * unit.kelvin)
simulation.reporters += [
    app.StateDataReporter(stdout, 50, step=True, temperature=True, potentialEnergy=True, volume=True, speed=True),
    PressureReporter("pressure.txt", 50),
]
simulation.step(steps)
