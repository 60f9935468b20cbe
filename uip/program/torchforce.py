"""`uip export --target torchforce`: one TorchScript file for stock openmm-torch, including the neighbour list.

    forward(positions (N, 3) nm, box (3, 3) nm) -> energy kJ/mol, forces (N, 3) kJ/mol/nm        (periodic)
    forward(positions (N, 3) nm)                -> the same                                      (open)

Elements are fixed at export. Nothing but torch is needed to load it: neighbours are found by torch's own
operations, exact for any box and any number of images. For OpenMM without openmm-torch, and for speed, use
the native force (`uip.openmm`).

The functions below are compiled by TorchScript and use only the Python that it supports.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from uip.checkpoint import parse_dtype
from uip.models.potential import Potential
from uip.nn.fused import plain_form
from uip.parallel.library import load_library
from uip.program.trace import exact_form, scriptable, trace
from uip.units import A_TO_NM, EV_TO_KJ_PER_MOL


def _blocks(start: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """For ranges [start, start + count): the number of the range, and the entry, of all entries in turn."""
    owner = torch.repeat_interleave(torch.arange(count.shape[0], device=count.device), count)
    before = torch.cumsum(count, 0) - count
    entry = torch.arange(owner.shape[0], device=count.device) - before[owner] + start[owner]
    return owner, entry


def _images(positions: Tensor, box: Tensor, periodic: bool, reach: float) -> tuple[Tensor, Tensor, Tensor]:
    """Points within `reach` of the box, atoms wrapped into it first: coordinates, atom, and cells added to it."""
    num_atoms = positions.shape[0]
    atom = torch.arange(num_atoms, device=positions.device)
    if not periodic:
        return positions, atom, torch.zeros((num_atoms, 3), dtype=torch.int64, device=positions.device)
    inverse = torch.linalg.inv(box)
    wrap = -torch.floor(positions @ inverse).to(torch.int64)
    # distance between the box's faces, in which a sphere of radius `reach` counts images
    margin = reach * torch.linalg.vector_norm(inverse, dim=0)
    most = torch.ceil(margin).to(torch.int64)
    ranges = [torch.arange(-int(most[k]), int(most[k]) + 1, device=positions.device) for k in range(3)]
    cells = torch.cartesian_prod(ranges[0], ranges[1], ranges[2])
    atom = atom.repeat(cells.shape[0])
    shift = wrap[atom] + torch.repeat_interleave(cells, num_atoms, dim=0)
    fraction = positions[atom] @ inverse + shift.to(box.dtype)
    near = ((fraction >= -margin) & (fraction < 1.0 + margin)).all(dim=1).nonzero().squeeze(1)
    return fraction[near] @ box, atom[near], shift[near]


def _close_pairs(points: Tensor, centres: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Pairs (centre, point) that share a bin of size `reach` or lie in neighbouring ones; `centres` number points."""
    low = torch.floor((points - points.min(dim=0).values) / reach).to(torch.int64) + 1
    size = low.max(dim=0).values + 2
    key = (low[:, 0] * size[1] + low[:, 1]) * size[2] + low[:, 2]
    order = torch.argsort(key)
    filled = key[order]
    first: list[Tensor] = []
    second: list[Tensor] = []
    for x in range(-1, 2):
        for y in range(-1, 2):
            wanted = key[centres] + (x * size[1] + y) * size[2]
            # bins along z follow each other: three of them are one range
            begin = torch.searchsorted(filled, wanted - 1)
            owner, entry = _blocks(begin, torch.searchsorted(filled, wanted + 1, right=True) - begin)
            first.append(centres[owner])
            second.append(order[entry])
    return torch.cat(first), torch.cat(second)


def find_edges(positions: Tensor, box: Tensor, periodic: bool, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """Directed edges shorter than `cutoff`, sorted by centre: edge_index (2, E), shifts (E, 3), edge_vec (E, 3)."""
    reach = cutoff * (1.0 + 1e-9)  # rounding decides once, below, and the same for both directions
    points, atom, shift = _images(positions, box, periodic, reach)
    home = torch.zeros_like(shift)
    if periodic:
        home = -torch.floor(positions @ torch.linalg.inv(box)).to(torch.int64)
    centres = (shift == home[atom]).all(dim=1).nonzero().squeeze(1)
    a, b = _close_pairs(points, centres, reach)
    near = (torch.linalg.vector_norm(points[b] - points[a], dim=1) < reach).nonzero().squeeze(1)
    a, b = a[near], b[near]
    i, j, cells = atom[a], atom[b], shift[b] - shift[a]
    vector = (positions[j] - positions[i]) + cells.to(box.dtype) @ box
    itself = (i == j) & (cells == 0).all(dim=1)
    kept = (~itself & (torch.linalg.vector_norm(vector, dim=1) < cutoff)).nonzero().squeeze(1)
    kept = kept[torch.argsort(i[kept])]
    return torch.stack([i[kept], j[kept]]), cells[kept], vector[kept]


def find_reverse(edge_index: Tensor, shifts: Tensor) -> Tensor:
    """(E,): the edge (j -> i) with the opposite shift."""
    if edge_index.shape[1] == 0:
        return edge_index[0]
    num_atoms, most = edge_index.max() + 1, shifts.abs().max()
    base = 2 * most + 1
    own_key = edge_index[0] * num_atoms + edge_index[1]
    opposite_key = edge_index[1] * num_atoms + edge_index[0]
    for axis in range(3):
        own_key = own_key * base + shifts[:, axis] + most
        opposite_key = opposite_key * base - shifts[:, axis] + most
    order = torch.argsort(own_key)
    return order[torch.searchsorted(own_key[order], opposite_key)]


def find_angles(bond_centre: Tensor, num_atoms: int) -> Tensor:
    """(2, A): all ordered pairs of different bonds with the same centre, for bonds sorted by centre."""
    count = torch.bincount(bond_centre, minlength=num_atoms)
    start = (torch.cumsum(count, 0) - count)[bond_centre]
    first, second = _blocks(start, count[bond_centre])
    different = (first != second).nonzero().squeeze(1)
    return torch.stack([first[different], second[different]])


class TorchForceModel(nn.Module):
    """What openmm-torch calls; see the module's text."""

    atomic_numbers: Tensor
    particles: Tensor
    like: Tensor

    def __init__(
        self,
        program: GraphModule,
        atomic_numbers: Sequence[int],
        *,
        cutoff: float,
        bond_cutoff: float,
        periodic: bool,
        particles: Sequence[int] | None,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.program = program
        self.cutoff, self.bond_cutoff, self.periodic = cutoff, bond_cutoff, periodic
        self.energy_unit, self.length_unit = EV_TO_KJ_PER_MOL, A_TO_NM
        everyone = range(len(atomic_numbers)) if particles is None else particles
        self.register_buffer("atomic_numbers", torch.tensor([int(z) for z in atomic_numbers]))
        self.register_buffer("particles", torch.tensor([int(k) for k in everyone]))
        self.register_buffer("like", torch.zeros(0, dtype=dtype))

    def forward(self, positions: Tensor, box: Tensor | None = None) -> tuple[Tensor, Tensor]:
        place = positions.index_select(0, self.particles).to(torch.float64) / self.length_unit
        cell = torch.eye(3, dtype=torch.float64, device=place.device)
        if box is not None:
            cell = box.to(torch.float64) / self.length_unit
        edge_index, shifts, edge_vec = find_edges(place, cell, self.periodic, self.cutoff)
        bonds = (torch.linalg.vector_norm(edge_vec, dim=1) < self.bond_cutoff).nonzero().squeeze(1)
        num_atoms = place.shape[0]
        outputs = self.program(
            self.atomic_numbers,
            torch.zeros_like(self.particles),
            edge_index,
            edge_vec.to(self.like.dtype),
            bonds,
            find_reverse(edge_index[:, bonds], shifts[bonds]),
            find_angles(edge_index[0, bonds], num_atoms),
        )
        node_energy, edge_grad = outputs[0], outputs[1]  # magnetic moments follow, if there are any
        gradient = edge_grad.to(torch.float64)
        forces = torch.zeros_like(place).index_add(0, edge_index[0], gradient)
        forces = forces.index_add(0, edge_index[1], -gradient) * (self.energy_unit / self.length_unit)
        # contiguous: openmm-torch reads the memory as it lies
        spread = torch.zeros((positions.shape[0], 3), dtype=torch.float64, device=place.device)
        spread = spread.index_copy(0, self.particles, forces).to(positions.dtype).contiguous()
        energy = node_energy.to(torch.float64).sum() * self.energy_unit
        return energy.to(positions.dtype), spread


INPUTS = (
    "atomic_numbers",
    "graph_index",
    "edge_index",
    "edge_vec",
    "bond_index",
    "reverse_bond",
    "angle_index",
)
"""What `TorchForceModel.forward` can give to a program, in order."""


def export_torchforce(
    model: Potential,
    path: Path | str,
    atomic_numbers: Sequence[int],
    *,
    periodic: bool,
    particles: Sequence[int] | None = None,
    dtype: str = "float32",
) -> None:
    """Write `model` for openmm-torch, as `TorchForce(path)` with `setOutputsForces(True)` reads it.

    Args:
        atomic_numbers: of each atom that the model sees.
        periodic: whether atoms interact across the box; then `setUsesPeriodicBoundaryConditions(True)` as well.
        particles: the places of these atoms in the System; None: all, in order.
        dtype: "float32" or "float64", of the model; edges are always found in float64.

    Raises:
        ValueError: another ending, no such folder, an element that the model does not know, counts that differ.
    """
    path = Path(path)
    if path.suffix != ".pt":
        raise ValueError(f"a file for openmm-torch must be named *.pt, got '{path.name}'")
    if not path.parent.is_dir():
        raise ValueError(f"no such folder: {path.parent}")
    unknown = sorted({int(z) for z in atomic_numbers} - set(model.elements))
    if unknown:
        raise ValueError(f"the structure has atomic numbers {unknown}, which '{model.card.name}' does not know")
    if particles is not None and len(particles) != len(atomic_numbers):
        raise ValueError(
            f"`particles` must name a place for each of the {len(atomic_numbers)} atomic numbers, got {len(particles)}"
        )
    if model.inputs != INPUTS or model.bond_cutoff is None:
        raise ValueError(
            f"a file for openmm-torch must hold a CHGNet, got a model of kind '{model.name}'; use uip's force"
        )
    program = serial_program(model, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that TorchScript is deprecated; openmm-torch reads nothing else
        whole = TorchForceModel(
            program,
            atomic_numbers,
            cutoff=model.cutoff,
            bond_cutoff=model.bond_cutoff,
            periodic=periodic,
            particles=particles,
            dtype=getattr(torch, dtype),
        )
        torch.jit.script(whole).save(str(path))


def serial_program(model: Potential, dtype: str) -> GraphModule:
    """Energy and gradient on one rank, for TorchScript without libuip: inputs and outputs as of an exported file.

    It stands being frozen and run by the optimising executor, which engines other than ours do.
    """
    load_library()
    exact = exact_form(model).to(dtype=parse_dtype(dtype))
    exact.calibration = None  # openmm-torch reads energy and forces alone
    with plain_form():
        program = trace(exact)
    for node in list(program.graph.nodes):
        with program.graph.inserting_before(node):
            other = _serial_form(program.graph, node)
        if other is not None:
            node.replace_all_uses_with(other)
            program.graph.erase_node(node)
    program.recompile()
    return scriptable(program)


def _serial_form(graph: torch.fx.Graph, node: torch.fx.Node) -> Any:
    """What stands for a node in a serial program; None: the node itself."""
    aten, a = torch.ops.aten, node.args
    name = str(getattr(node.target, "overloadpacket", ""))
    if name == "uip.reverse_edges":
        return graph.call_function(aten.index_select.default, (a[0], 0, a[1]))
    if name.startswith("uip."):
        return a[0]
    # where a factor is a constant, the executor of torch 2.13 is wrong about the shapes of mm and addmm
    if name == "aten.mm":
        return graph.call_function(aten.matmul.default, (a[0], a[1]))
    if name == "aten.addmm":
        product = graph.call_function(aten.matmul.default, (a[1], a[2]))
        return graph.call_function(aten.add.Tensor, (product, a[0]))
    return None
