"""Checkpoints of fairchem: what is read from them, what is refused, and the messages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from fairchem_files import CHECKPOINT, Writer, atoms_of, direct, read_json, read_state, toy_fields
from typer.testing import CliRunner, Result

from uip import Calculator
from uip.checkpoint import load_model
from uip.cli.app import app
from uip.importers.fairchem import fairchem_checkpoint
from uip.importers.published import PUBLISHED, allscaip_from_fairchem

CONFIG = read_json("plain")["config"]


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Writer:
    return Writer(monkeypatch)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["import", "fairchem", *(str(argument) for argument in arguments)])


def with_task(fields: dict[str, Any], kind: str, **changes: Any) -> list[dict[str, Any]]:
    """The tasks, those of one property changed."""
    return [{**task, **changes} if task["property"] == kind else task for task in fields["tasks_config"]]


@pytest.mark.parametrize("prefix", ["", "module.backbone.", "module.module.backbone."])
def test_names_with_and_without_prefixes(prefix: str) -> None:
    state = read_state("plain")
    other = {
        f"{prefix}{name.removeprefix('backbone.')}" if name.startswith("backbone.") else f"module.{name}": value
        for name, value in state.items()
    }
    expected = allscaip_from_fairchem(state, CONFIG).state_dict()
    got = allscaip_from_fairchem({**other, "n_averaged": torch.tensor(7)}, CONFIG).state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_settings_left_out_are_those_of_fairchem() -> None:
    model = allscaip_from_fairchem(read_state("plain"), CONFIG)
    assert not model.config.smooth
    assert (model.config.num_elements, model.config.cutoff, model.config.k, model.config.nearest) == (109, 6.0, 30, 50)
    assert model.elements == tuple(range(1, 110))
    encodings = {key: value for key, value in read_json("full")["config"].items() if not key.startswith("use_")}
    full = allscaip_from_fairchem(read_state("full"), encodings).config
    assert (full.angular, full.radial, full.node_attention) == (True, True, True)


def test_direct_forces(tmp_path: Path) -> None:
    """The force head predicts (1, 2, 4) times the atomic energies, see `fairchem_files.direct`."""
    for config in (CONFIG, {**CONFIG, "direct_forces": True}):
        model = allscaip_from_fairchem(direct(read_state("plain")), config)
        assert not model.conservative
    atoms = atoms_of(read_json("plain")["systems"]["ethanol"])
    atoms.calc = Calculator(model, dtype="float64")
    forces, energies = atoms.get_forces(), atoms.get_potential_energies()
    for axis in range(3):
        assert forces[:, axis] == pytest.approx(2**axis * energies, rel=1e-12, abs=1e-12)
    assert energies.sum() == pytest.approx(read_json("plain")["systems"]["ethanol"]["energy"], abs=1e-6)


def test_without_attention_of_all_atoms() -> None:
    state = {name: value for name, value in read_state("radial").items() if ".node_attention." not in name}
    config = allscaip_from_fairchem(state, {**read_json("radial")["config"], "use_node_path": False}).config
    assert (config.node_attention, config.radial) == (False, False)


def test_what_only_changes_how_fairchem_computes_is_ignored() -> None:
    runtime = {"use_compile": True, "max_atoms": 7, "atten_name": "flash", "mlp_dropout": 0.1, "max_neighbors": 3}
    assert allscaip_from_fairchem(read_state("plain"), {**CONFIG, **runtime}).config.k == 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalization": "layernorm"}, "'normalization' must be 'rmsnorm', as in every published AllScAIP, got 'la"),
        ({"knn_soft": False}, "'knn_soft' must be True.*this model is not supported, run it with fairchem"),
        ({"knn_sigmoid_scale": 0.3}, r"'knn_sigmoid_scale' must be 0\.2"),
        ({"use_freq_masks": True}, "unknown key 'use_freq_masks' in the settings.*did you mean 'use_freq_mask'"),
        ({"hidden_size": "64"}, "'channels' must be int"),
        ({"hidden_size": 128}, "does not fit the architecture it names"),
        ({"num_layers": 3}, "does not fit the architecture it names.*Missing"),
        ({"num_layers": 1}, "does not fit the architecture it names.*Unexpected"),
        ({"direct_forces": True}, "direct_forces = true must have 1 heads with weights 'force_ffn', got none"),
    ],
)
def test_settings_that_cannot_be_meant(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        allscaip_from_fairchem(read_state("plain"), {**CONFIG, **change})


def test_settings_that_must_be_there() -> None:
    with pytest.raises(ValueError, match="must have 'hidden_size', 'atten_num_heads'"):
        allscaip_from_fairchem(read_state("plain"), {"num_layers": 2, "use_freq_mask": False, "use_sincx_mask": False})


def test_weights_that_do_not_fit() -> None:
    state = read_state("plain")
    headless = {name: value for name, value in state.items() if not name.startswith("output_heads")}
    with pytest.raises(ValueError, match="must have 1 heads with weights 'energy_ffn', got none"):
        allscaip_from_fairchem(headless, CONFIG)
    twice = {**state, **{name.replace("efs", "other"): value for name, value in state.items()}}
    with pytest.raises(ValueError, match="must have 1 heads with weights 'energy_ffn', got efs, other"):
        allscaip_from_fairchem(twice, CONFIG)
    with pytest.raises(ValueError, match="direct_forces = false must have 0 heads with weights 'force_ffn', got forc"):
        allscaip_from_fairchem(direct(state), {**CONFIG, "direct_forces": False})
    with pytest.raises(ValueError, match=r"has weights 'new_block\.weight' that no published AllScAIP has"):
        allscaip_from_fairchem({**state, "backbone.new_block.weight": torch.ones(1)}, CONFIG)
    for lost in ("q", "k"):
        name = f"backbone.transformer_blocks.0.neighborhood_attention.src_attn.attn_in_proj_{lost}.weight"
        with pytest.raises(ValueError, match=r"does not fit the architecture it names(?s:.)*source\.qkv\.weight"):
            allscaip_from_fairchem({key: value for key, value in state.items() if key != name}, CONFIG)


def test_command(tmp_path: Path) -> None:
    output = tmp_path / "toy.ckpt"
    result = run(CHECKPOINT, "-o", output)
    assert result.exit_code == 0, result.output
    for text in ("262,411 weights", "derivatives of the energy", "smooth = false", "FAIR Chemistry licence"):
        assert text in result.stdout
    model = load_model(output)
    assert model.elements == (1, 6, 7, 8, 11, 17)
    assert model.card.name == "fairchem_checkpoint"
    assert "arXiv:2603.06567" in model.card.reference
    record = read_json("fairchem_checkpoint")["hydroxide"]
    atoms = atoms_of(record)
    atoms.calc = Calculator(output)
    assert atoms.get_potential_energy() == pytest.approx(record["energy"], abs=2e-3)
    atoms.numbers[0] = 14
    with pytest.raises(ValueError, match="the structure has Si, but 'fairchem_checkpoint' knows H, C, N, O, Na, Cl"):
        atoms.get_potential_energy()
    again = run(CHECKPOINT, "-o", output)
    assert again.exit_code == 1
    assert "exists; choose another name, or add --force" in again.stderr
    assert run(CHECKPOINT, "-o", output, "--force").exit_code == 0
    assert "must end in .ckpt" in run(CHECKPOINT, "-o", tmp_path / "toy.pt").stderr
    assert "no such file" in run(tmp_path / "nowhere.pt", "-o", tmp_path / "other.ckpt").stderr


def test_averaged_weights_are_taken(writer: Writer, tmp_path: Path) -> None:
    fields = toy_fields()
    plain = {name: torch.zeros_like(value) for name, value in fields["model_state_dict"].items()}
    model = fairchem_checkpoint(writer.write(tmp_path / "a.pt", model_state_dict=plain))
    assert torch.equal(model.embedding.token.bias, fairchem_checkpoint(CHECKPOINT).embedding.token.bias)
    assert model.embedding.token.weight.abs().max() > 0
    never = fairchem_checkpoint(writer.write(tmp_path / "b.pt", ema_state_dict=None, model_state_dict=plain))
    assert never.embedding.token.weight.abs().max() == 0


def test_the_task_decides_units_and_references(writer: Writer, tmp_path: Path) -> None:
    fields = toy_fields()
    short = {"element_references": [0.0, -1.0, 2.0]}
    other = [
        {**task, "name": f"new_{task['property']}", "datasets": ["new"], "normalizer": {"rmsd": 2.5}, **short}
        for task in fields["tasks_config"]
    ]
    path = writer.write(tmp_path / "two.pt", tasks_config=fields["tasks_config"] + other)
    result = run(path, "-o", tmp_path / "two.ckpt")
    assert result.exit_code == 1
    assert "the checkpoint has the tasks new, omol; select one with --task" in result.stderr
    assert run(path, "-o", tmp_path / "two.ckpt", "--task", "new").exit_code == 0
    model = load_model(tmp_path / "two.ckpt")
    assert model.elements == (1, 2)
    assert model.reference_energy[:4].tolist() == [0.0, -1.0, 2.0, 0.0]
    assert model.energy_scale.item() == 2.5
    omol = fairchem_checkpoint(path, task="omol")
    assert omol.energy_scale.item() == pytest.approx(1.433569)
    assert omol.reference_energy[8].item() == -2041.8
    with pytest.raises(ValueError, match="unknown task 'omoll'; did you mean 'omol'"):
        fairchem_checkpoint(path, task="omoll")


def test_without_references_all_elements_are_known(writer: Writer, tmp_path: Path) -> None:
    tasks = with_task(toy_fields(), "energy", element_references=None)
    model = fairchem_checkpoint(writer.write(tmp_path / "bare.pt", tasks_config=tasks))
    assert model.elements == tuple(range(1, 110))
    assert model.reference_energy.abs().max() == 0


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("energy", {"normalizer": {"mean": 0.5, "rmsd": 1.0}}, "must have mean 0, got 0.5"),
        ("forces", {"normalizer": {"mean": 0.0, "rmsd": 7.0}}, r"must have one 'rmsd', got \[1\.43.*, 7\.0\]"),
        ("energy", {"normalizer": {"rmsd": "big"}}, "'rmsd' of a task must be numbers, got big"),
        ("energy", {"element_references": [0.0, float("nan")]}, "'element_references' of a task must be finite"),
        (
            "energy",
            {"element_references": {"elements": 3}},
            "'element_references' of a task must be numbers, got {'elements': 3}",
        ),
        ("energy", {"property": "hessian"}, "the checkpoint has the tasks none; select one"),
    ],
)
def test_tasks_that_cannot_be_meant(
    writer: Writer, tmp_path: Path, kind: str, change: dict[str, Any], message: str
) -> None:
    path = writer.write(tmp_path / "odd.pt", tasks_config=with_task(toy_fields(), kind, **change))
    with pytest.raises(ValueError, match=message):
        fairchem_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_config": {"model": "new"}}, "must describe its model as fairchem-core 2.24 does, with a 'backbone'"),
        (
            {"model_config": {"backbone": {"model": "fairchem.core.models.uma.escn_md.eSCNMDBackbone"}}},
            "must hold an AllScAIP, got 'fairchem.core.models.uma.escn_md.eSCNMDBackbone'; run other models with fair",
        ),
        ({"ema_state_dict": {"module.a": "b"}}, "must hold a state dict of tensors as 'ema_state_dict'"),
        ({"tasks_config": "omol"}, "'tasks_config' of a fairchem checkpoint must be a list of tables"),
    ],
)
def test_other_models_and_versions(writer: Writer, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    result = run(writer.write(tmp_path / "new.pt", **change), "-o", tmp_path / "out.ckpt")
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "out.ckpt").exists()


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("inside", [False, True])
def test_code_is_never_run(writer: Writer, tmp_path: Path, inside: bool) -> None:
    path, proof = tmp_path / "bomb.pt", tmp_path / "exploded"
    if inside:
        writer.write(path, model_config=Bomb(proof))
    else:
        torch.save(Bomb(proof), path)
    result = run(path, "-o", tmp_path / "out.ckpt")
    assert result.exit_code == 1
    assert "contains Python objects other than tensors and was refused: loading it could execute code" in result.stderr
    assert not proof.exists()
    assert not (tmp_path / "out.ckpt").exists()
    torch.load(path, weights_only=False)
    assert proof.exists()  # so it would have run


def test_files_of_other_kinds(tmp_path: Path) -> None:
    raw = CHECKPOINT.read_bytes()
    (tmp_path / "half.pt").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "text.pt").write_text("not a checkpoint")
    torch.save({"weights": torch.ones(3)}, tmp_path / "foreign.pt")
    chgnet = PUBLISHED["chgnet-0.3.0"].find()
    for path, message in (
        (tmp_path / "half.pt", "is truncated or of another kind"),
        (tmp_path / "text.pt", "must be a torch checkpoint, but is another kind of file"),
        (tmp_path / "foreign.pt", "must be an inference checkpoint of fairchem, but is another torch file"),
        (chgnet, "checkpoints of uip and of chgnet need no import"),
    ):
        result = run(path, "-o", tmp_path / "out.ckpt")
        assert result.exit_code == 1
        assert message in result.stderr
        assert "Traceback" not in result.output


def test_other_commands_say_that_it_must_be_imported_first() -> None:
    with pytest.raises(ValueError, match="is a checkpoint of fairchem; run 'uip import fairchem"):
        load_model(CHECKPOINT)
