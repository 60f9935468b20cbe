"""Writes system.xml, which contains the model, and state.xml for the C++ program. See README.md."""

from ase.build import bulk
from openmm import Context, System, VerletIntegrator, XmlSerializer

from uip.openmm import create_force, topology_from_atoms

atoms = bulk("NaCl", "rocksalt", a=5.69, cubic=True)
atoms.rattle(0.1, seed=0)
topology, positions = topology_from_atoms(atoms)
system = System()
system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
for mass in atoms.get_masses():
    system.addParticle(mass)
system.addForce(create_force("chgnet.pt2", atoms.numbers, periodic=True))
context = Context(system, VerletIntegrator(0.001))
context.setPositions(positions)
for name, thing in (("system", system), ("state", context.getState(getPositions=True, getVelocities=True))):
    with open(f"{name}.xml", "w") as file:
        file.write(XmlSerializer.serialize(thing))
