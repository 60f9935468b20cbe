"""`uip ipi`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from uip.cli.errors import errors, user_errors
from uip.cli.options import Device, Dtype, Format, Head, Models, Species, Trusted, species_of

PORT = 31415
"""The default of i-PI and of ASE."""


def ipi(
    structure: Annotated[
        str, typer.Argument(help="The atoms in i-PI's order, with periodicity; positions come from i-PI.")
    ],
    model: Models = ["chgnet-0.3.0"],  # noqa: B006, typer copies it
    unix: Annotated[str | None, typer.Option(help="Name of a Unix socket: <address> of i-PI with mode='unix'.")] = None,
    host: Annotated[str, typer.Option(help="With mode='inet': the computer that runs i-PI.")] = "localhost",
    port: Annotated[int, typer.Option(help="With mode='inet': <port> of i-PI.")] = PORT,
    head: Head = None,
    device: Device = None,
    dtype: Dtype = None,
    kind: Format = None,
    species: Species = None,
    trusted: Trusted = None,
) -> None:
    """Compute forces for i-PI (path integrals, replica exchange, ...), or for another server of its protocol.

    Start i-PI first. Start this command several times to compute several beads at once.
    """
    with user_errors():
        from uip.calculator import Calculator
        from uip.data.read import read_atoms

        atoms = next(iter(read_atoms(structure, kind=kind, index="0", species=species_of(species))))
        atoms.calc = Calculator(model, head=head, device=device, dtype=dtype, trusted=trusted)
        with errors.status("waiting for i-PI") as status:
            count = serve(
                atoms, unix=unix, host=host, port=port, report=lambda step: status.update(f"{step} evaluations")
            )
        errors.print(f"i-PI has closed the connection after {count} evaluations", highlight=False)


def serve(atoms: Any, *, unix: str | None = None, host: str = "localhost", port: int = PORT, report: Any = None) -> int:
    """Answer i-PI until it closes the connection; returns the number of evaluations.

    Raises:
        ValueError: nothing listens there.
    """
    from ase.calculators.socketio import SocketClient

    try:
        client = SocketClient(host=host, port=port, unixsocket=unix)
    except OSError as error:
        place = f"the Unix socket '{unix}'" if unix else f"port {port} of {host}"
        raise ValueError(
            f"i-PI must listen at {place} before this command starts, but: {error.strerror or error}"
        ) from None
    periodic = atoms.pbc.all() and atoms.cell.rank == 3
    count = 0
    for count, _ in enumerate(client.irun(atoms, use_stress=bool(periodic)), start=1):
        if report is not None:
            report(count)
    return count
