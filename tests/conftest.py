"""Fixtures that all tests share."""

from __future__ import annotations

import locale
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "long_range"))  # its modules have tests
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported: its kernels then run on CPUs

from uip.models.allscaip import AllScAIP, AllScAIPConfig
from uip.models.chgnet import CHGNet, CHGNetConfig
from uip.models.potential import Potential
from uip.models.uncertainty import Calibration, CalibrationRecord

THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
torch.set_num_threads(THREADS)
os.environ["OMP_NUM_THREADS"] = str(THREADS)  # of programs that tests start
# MPICH: ranks that wait leave the core to those that work. Tests run more ranks than there are cores. Collectives in
# shared memory never yield; those made of messages do.
os.environ |= {"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1", "MPIR_CVAR_POLLS_BEFORE_YIELD": "1"}
for collective in ("BARRIER", "BCAST", "REDUCE", "ALLREDUCE"):
    os.environ[f"MPIR_CVAR_{collective}_POSIX_INTRA_ALGORITHM"] = "mpir"

SMALL = CHGNetConfig(num_elements=30, channels=16, num_layers=3, num_radial=9, num_angular=7, num_readout=1)


def random_chgnet(config: CHGNetConfig = SMALL, seed: int = 0) -> CHGNet:
    """A CHGNet with random weights large enough for every path to matter, float64."""
    torch.manual_seed(seed)
    model = CHGNet(config).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "frequencies" not in name and "norm" not in name:
                parameter.mul_(2.0)
        model.reference_energy.uniform_(-5.0, -1.0)
    return model.requires_grad_(False).eval()


def random_allscaip(*, seed: int = 0, **changes: object) -> AllScAIP:
    """An AllScAIP with random weights large enough for every path to matter, float64."""
    torch.manual_seed(seed)
    size = {"num_elements": 20, "channels": 16, "num_layers": 2, "num_heads": 2, "num_radial": 16}
    model = AllScAIP(AllScAIPConfig(**{**size, "angular_channels": (2, 2, 1, 1, 2), **changes})).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "scale" in name:
                continue
            if any(part in name for part in ("radial_weight", "sink", "element")) or name.endswith("bias"):
                parameter.normal_()
            else:
                parameter.mul_(2.0)
        model.energy_scale.fill_(10.0)
        model.reference_energy.uniform_(-5.0, -1.0)
    return model.requires_grad_(False).eval()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: a worker that begins one when the other has finished runs it alone."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


RECORD = CalibrationRecord(80, 20, 0.03, 1e-4, 0.5, 1.1, 0.04)


def calibrated(model: Potential) -> Potential:
    """`model` itself, with a random calibration."""
    size = model.last_layer.in_features
    torch.manual_seed(1)
    model.calibration = Calibration(torch.randn(size, size, dtype=torch.float64) / size, RECORD)
    return model


@pytest.fixture(autouse=True)
def encoding() -> Iterator[None]:
    """A test leaves the encoding of the process as it was: OpenMM on OpenCL changes it, and torch's compiler then fails
    to read its own files in whichever test comes next."""
    before = locale.setlocale(locale.LC_CTYPE)
    yield
    locale.setlocale(locale.LC_CTYPE, before)


@pytest.fixture(scope="session")
def published() -> CHGNet:
    """Published CHGNet 0.3.0 in float64."""
    from uip.checkpoint import load_model

    return load_model("chgnet-0.3.0", dtype="float64")


@pytest.fixture(scope="session", params=["chgnet-0.3.0", "random", "random with output bias"])
def model(request: pytest.FixtureRequest, published: CHGNet) -> CHGNet:
    """The models that must pass the physics contract, float64."""
    if request.param == "chgnet-0.3.0":
        return published
    if request.param == "random":
        return random_chgnet()
    return random_chgnet(CHGNetConfig(**{**SMALL.__dict__, "norm": False, "output_bias": True}))
