"""What can be said without looking at positions, and models that are fitted without descent."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms

import pygschnet.datasets
from pygschnet import AtomisticModel
from pygschnet.cli import main
from pygschnet.datasets import Files
from pygschnet.heads import Sum, least_squares_references
from pygschnet.representations import Zeros
from pygschnet.training import AtomisticModule
from tests.structures import graph
from tests.test_datasets import frames
from tests.test_training import trainer

E0 = {"H": -13.6, "C": -1029.0, "O": -2042.0}


@pytest.fixture
def molecules(tmp_path) -> Path:
    """An extended xyz file of molecules of different composition, whose energies are nearly sums over atoms."""
    rng, blocks = np.random.default_rng(0), []
    for formula in ("CH4", "CO", "H2O", "CO2", "C2H4", "CH4O", "C3O", "H2O2", "C2", "O3", "H2", "CH2O"):
        atoms = Atoms(formula)
        atoms.positions = np.outer(np.arange(len(atoms)), [1.1, 0.0, 0.0]) + rng.normal(size=(len(atoms), 3)) * 0.1
        energy = sum(E0[symbol] for symbol in atoms.symbols) + rng.normal(scale=0.01)
        rows = "\n".join(f"{s} {x} {y} {z}" for s, (x, y, z) in zip(atoms.symbols, atoms.positions, strict=True))
        blocks.append(f"{len(atoms)}\nProperties=species:S:1:pos:R:3 energy={energy}\n{rows}\n")
    path = tmp_path / "molecules.extxyz"
    path.write_text("".join(blocks))
    return path


def fitted(head: Sum, path: Path, folder: Path) -> tuple[AtomisticModel, Files]:
    data = Files(str(path), train=8, val=2, test=None)
    module = AtomisticModule(Zeros(), head, rho=0.0)
    run = trainer(folder, max_steps=500)
    run.fit(module, data)
    assert run.global_step <= 1  # there was nothing to descend
    return module.averaged, data


def energies_of(data: Files, part: str) -> torch.Tensor:
    return data.molecules.batch(data.split[part]).energy


def test_the_mean_predictor(molecules, tmp_path):
    model, data = fitted(Sum(aggregation="mean", mean=True), molecules, tmp_path)
    batch = data.molecules.batch(data.split["test"])
    prediction = model(batch)
    expected = energies_of(data, "train").mean().expand_as(prediction.energy)
    torch.testing.assert_close(prediction.energy, expected, rtol=1e-14, atol=0.0)
    assert not prediction.forces.any()


def test_least_squares_atoms(molecules, tmp_path):
    model, data = fitted(Sum(references="least_squares"), molecules, tmp_path)
    test = data.molecules.batch(data.split["test"])
    assert (model(test, forces=False).energy - test.energy).abs().max() < 0.1  # of thousands of eV
    train = data.molecules.batch(data.split["train"])
    counts = torch.stack([torch.bincount(train.batch[train.z == z], minlength=8) for z in (1, 6, 8)], 1).double()
    residual = model(train, forces=False).energy - train.energy
    torch.testing.assert_close(counts.T @ residual, torch.zeros(3).double(), rtol=0, atol=1e-7)  # of least squares
    torch.testing.assert_close(
        model.head.reference_energies, least_squares_references(train.z, train.batch, train.energy.double())
    )


def test_as_one_word_on_the_command_line(tmp_path, monkeypatch, pygschnet_command):
    monkeypatch.chdir(tmp_path)
    np.savez("frames.npz", **frames())
    command = ("fit", "-c", "preset:mean", "--data", "MD17", "--data.path", "frames.npz", "--data.train", "10")
    quiet = ("--data.val", "4", "--trainer.enable_progress_bar", "false", "--trainer.max_steps", "1000")
    printed = pygschnet_command(*command, *quiet, "--run_dir", "run")
    assert "test: energy MAE" in printed
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["parameters"] == 0 and metrics["steps"] <= 1
    data = pygschnet.datasets.MD17("frames.npz", train=10, val=4)
    data.setup("fit")
    mean, test = energies_of(data, "train").mean(), data.molecules.batch(data.split["test"])
    assert metrics["test"]["energy_mae"]["value"] == pytest.approx((test.energy - mean).abs().mean().item())
    assert metrics["test"]["forces_mae"]["value"] == pytest.approx(test.forces.abs().mean().item())
    model = pygschnet.load("run/model.safetensors")
    assert pygschnet.describe("run/model.safetensors")["preset"] == "mean" and model.dtype == torch.float64
    assert model(graph(Atoms("OH2", np.eye(3)), model)).energy.item() == pytest.approx(mean.item())
    written = yaml.safe_load(Path("run/config.yaml").read_text())["model"]["representation"]
    assert written["class_path"] == "pygschnet.representations.Zeros" and not written.get("init_args")
    resumed = pygschnet_command("fit", "-c", "run/config.yaml", "--ckpt_path", "last")
    assert "model, metrics and plots are in run" in resumed


def test_scale_and_shift_of_another_head_are_not_inherited(tmp_path, monkeypatch, capsys):
    """The paper's preset, the default, has a head whose σ and μ come from the data: energies in eV are in eV."""
    monkeypatch.chdir(tmp_path)
    Path("sum.yaml").write_text("model: {representation: {class_path: Zeros}, head: {class_path: Sum}}")
    monkeypatch.setattr(sys, "argv", ["pygschnet", "fit", "-c", "sum.yaml", "--data", "MD17", "--print_config"])
    with pytest.raises(SystemExit):
        main()
    settings = yaml.safe_load(capsys.readouterr().out)["model"]["head"]["init_args"]
    assert settings == {"aggregation": "sum", "mean": False, "references": None}
