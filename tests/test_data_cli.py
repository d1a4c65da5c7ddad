"""From files of every kind to a trained model, and `pygschnet data`: through the command line, as a user would."""

import json
import sys
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

import pygschnet
from pygschnet.cli import main
from tests.structures import SHARED

TINY = """
model:
  representation:
    class_path: SchNet
    init_args: {features: 8, gaussians: 6, interactions: 1, cutoff: 4.0, cutoff_form: cosine}
  head: {class_path: Atomwise, init_args: {features: 8}}
  rho: 1.0
trainer: {max_steps: 4, check_val_every_n_epoch: null, val_check_interval: 2, enable_progress_bar: false}
"""
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="the reference data are not beside this checkout")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    return tmp_path


def some_rows(path, count, **names):
    """The first frames of a file of the reference data, under other names."""
    with np.load(path) as file:
        n_atoms = file["n_atoms"][:count] if "n_atoms" in file else None
        atoms = int(n_atoms.sum()) if n_atoms is not None else count
        arrays = {new: file[old][: atoms if old in ("Z", "R", "F_eV_A") else count] for new, old in names.items()}
        return arrays | ({"n_atoms": n_atoms} if n_atoms is not None else {})


def md17(folder):
    path = SHARED / "md17_ethanol_first2000/md17_ethanol_first2000.npz"
    np.savez("x.npz", **some_rows(path, 30, R="R", E="E", F="F"),
             z=[6, 6, 8, 1, 1, 1, 1, 1, 1])  # fmt: skip
    return ("--data", "MD17", "--data.path", "x.npz", "--data.train", "20", "--data.val", "5")


def qm9(folder):
    np.savez("x.npz", **some_rows(SHARED / "qm9_eel/qm9_eel_dipole.npz", 60, Z="Z", R="R", E="E_hartree"))
    return ("--data", "Files", "--data.path", "x.npz", "--data.units.energy", "Ha", "--model.rho", "0",
            "--model.head.references", "least_squares", "--data.max_atoms", "60")  # fmt: skip


def qm7x(folder):
    np.savez(
        "x.npz", **some_rows(SHARED / "qm7x_sample/qm7x_2500.npz", 120, Z="Z", R="R", E_eV="E_eV", F_eV_A="F_eV_A")
    )
    return ("--data", "QM7X", "--data.path", "x.npz", "--data.group_by", "composition", "--data.max_edges", "2000",
            "--data.train", "0.6", "--data.val", "0.2")  # fmt: skip


def water(folder):
    with np.load(SHARED / "pbc_deepmd_water/water192_400.npz") as file:
        np.savez("x.npz", Z=file["Z"], **{name: file[name][:8] for name in ("R", "E_eV", "F_eV_A", "cell")})
    return ("--data", "Files", "--data.path", "x.npz", "--data.batch_size", "2", "--data.num_workers", "1")


@needs_shared
@pytest.mark.parametrize("kind", [md17, qm9, qm7x, water])
def test_training_starts(folder, pygschnet_command, kind):
    output = pygschnet_command("fit", "-c", "tiny.yaml", *kind(folder), "--run_dir", "run")
    assert "test: energy MAE" in output
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["steps"] == 4 and metrics["split"]["train"] > 0 and metrics["data"]["files"].keys() == {"x.npz"}
    assert np.isfinite(metrics["test"]["energy_mae"]["value"])
    assert set(np.load("run/split.npz").files) == {"train", "val", "test"}


def argon(count=24):
    """Clusters and isolated atoms with Lennard-Jones labels, as a user's file would hold them."""
    rng = np.random.default_rng(0)
    for k in range(count):
        atoms = ase.build.bulk("Ar", cubic=True).repeat((1, 1, 2))
        atoms.set_pbc(False)
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        atoms.calc = LennardJones(sigma=3.3, epsilon=0.01, rc=8.0)
        results = {"energy": atoms.get_potential_energy() - 1.5 * len(atoms), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info["config_type"] = "cold" if k % 2 else "warm"
        yield atoms
    single = ase.Atoms("Ar")
    single.calc = SinglePointCalculator(single, energy=-1.5)
    yield single


def test_a_file_of_ones_own(folder, pygschnet_command):
    """Isolated atoms give the references; a model fitted to them starts from the binding energy."""
    ase.io.write("argon.extxyz", list(argon()))
    files = ("--data", "Files", "--data.path", "argon.extxyz", "--data.words", "[config_type]")
    split = (
        "--data.train_rows",
        "warm",
        "--data.test_rows",
        "config_type=cold",
        "--data.train",
        "8",
        "--data.val",
        "4",
    )
    options = ("--model.head.references", "data", "--run_dir", "run", "--trainer.max_steps", "2")
    pygschnet_command("fit", "-c", "tiny.yaml", *files, *split, *options)
    model = pygschnet.load("run/model.safetensors")
    assert model.head.reference_energies[18].item() == pytest.approx(-1.5)
    assert abs(model.head.mu.item()) < 0.1  # eV per atom: what is left is the binding
    rows = np.load("run/split.npz")
    assert (rows["train"] % 2 == 0).all() and (rows["test"] % 2 == 1).all() and 24 not in rows["test"]
    # the configuration of the run describes its data
    assert "isolated atoms Ar -1.5000 eV" in pygschnet_command("data", "info", "-c", "run/config.yaml")


def test_references_that_are_not_there(folder, pygschnet_command):
    ase.io.write("argon.extxyz", list(argon())[:-1])
    fit = ("fit", "-c", "tiny.yaml", "--data", "Files", "--data.path", "argon.extxyz", "--run_dir", "run")
    assert "no energies of isolated Ar" in pygschnet_command(*fit, "--model.head.references", "data", code=1)
    pygschnet_command(*fit, "--model.head.references", "least_squares")  # one element: the mean
    assert pygschnet.load("run/model.safetensors").head.reference_energies[18].item() == pytest.approx(-1.5, abs=0.1)


def test_predicting_needs_no_split(folder, pygschnet_command):
    frames = list(argon(12))[:-1]
    ase.io.write("argon.extxyz", frames)
    pygschnet_command("fit", "-c", "tiny.yaml", "--data", "Files", "--data.path", "argon.extxyz", "--data.train", "8",
            "--data.val", "2", "--run_dir", "run")  # fmt: skip
    ase.io.write("one.extxyz", frames[0])
    output = pygschnet_command("predict", "-c", "run/config.yaml", "--data.path", "one.extxyz")
    assert "of 1 molecules are in run/predictions.npz" in output


def test_info(folder, pygschnet_command):
    frames = list(argon())
    ase.io.write("argon.extxyz", [*frames, frames[3]])
    text = pygschnet_command(
        "data", "info", "argon.extxyz", "--data.cutoff", "4", "--data.words", "[config_type]", "--json", "i.json"
    )
    facts = json.loads(Path("i.json").read_text())
    assert "26 structures of 201 atoms" in text and "Ar 201" in text and "config_type: warm, cold" in text
    assert "NOTE 1 molecules stand twice" in text and "no slips of units suspected" in text
    counts = [0]  # of the single atom
    for atoms in [*frames[:-1], frames[3]]:
        distances = np.linalg.norm(atoms.positions[:, None] - atoms.positions, axis=-1)
        counts += ((distances > 0) & (distances < 4)).sum(0).tolist()
    quantiles = facts["distributions"]["neighbours to 4 Å"]["quantiles"]
    assert quantiles == pytest.approx(np.quantile(counts, (0, 0.01, 0.5, 0.99, 1)))
    energies = [atoms.get_potential_energy() / len(atoms) for atoms in [*frames, frames[3]]]
    assert facts["distributions"]["energy per atom"]["quantiles"][2] == pytest.approx(np.median(energies))
    assert facts["split"]["train"] + facts["split"]["val"] + facts["split"]["test"] == 25


@needs_shared
def test_slips_are_shown(pygschnet_command):
    path = str(SHARED / "md17_ethanol_first2000/md17_ethanol_first2000.npz")
    assert "no slips of units suspected" in pygschnet_command("data", "info", path, "--data.cutoff", "3")
    text = pygschnet_command("data", "info", path, "--data", "Files", "--data.cutoff", "3")
    assert "SUSPICIOUS energies are 23.3 times the total energies of the atoms: perhaps kcal/mol given as eV" in text


def test_convert(folder, pygschnet_command):
    ase.io.write("argon.extxyz", list(argon()))
    convert = ("data", "convert", "argon.extxyz", "argon.safetensors", "--data.units.energy", "kcal/mol")
    assert "--data.path argon.safetensors" in pygschnet_command(*convert, "--with_edges", "true", "--data.cutoff", "4")
    from pygschnet.datasets import Files

    data, raw = (Files(path, cutoff=4.0, train=10, val=5) for path in ("argon.safetensors", "argon.extxyz"))
    data.setup("fit")
    raw.setup("fit")
    ours, wanted = data.molecules.batch(range(25)), raw.molecules.batch(range(25))
    torch.testing.assert_close(ours.energy, wanted.energy * 0.0433641, rtol=1e-5, atol=0)
    assert torch.equal(ours.edge_index, wanted.edge_index) and "edge_index" in data.store
    assert "give the file to write" in pygschnet_command("data", "convert", "argon.extxyz", "argon.h5", code=1)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["data", "inof"], 2, "usage: pygschnet data COMMAND"),
        (["data", "info", "missing.xyz"], 1, "there is no file missing.xyz"),
        (["data", "info", "tiny.yaml"], 1, "tiny.yaml cannot be read"),
        (["data", "info", "-c", "tiny.yaml"], 1, "tiny.yaml describes no data"),
        (["data", "info", "argon.extxyz", "--data.keys.energy", "enrgy"], 1, "did you mean 'energy'?"),
        (["data", "info", "argon.extxyz", "--data.units.energy", "kcal"], 1, "'kcal' is no unit of energy"),
        (["data", "info", "argon.extxyz", "--data.units.forces", "eV"], 1, "'eV' is no unit of forces"),
        (["data", "info", "argon.extxyz", "--data.train_rows", "hot"], 1, "no set of rows, word or file 'hot'"),
        (["data", "info", "argon.extxyz", "--data.train", "40"], 1, "40 for train"),
        (["data", "download", "--data", "QM9", "--data.root", "."], 1, "PYGSCHNET_OFFLINE"),
        (["data", "download", "--data", "MD17", "--data.molecule", "etanol"], 1, "there is no molecule 'etanol'"),
        (["data", "download", "--data", "MD17"], 1, "give either the path of a file, or the molecule to download"),
    ],
)
def test_mistakes(folder, pygschnet_command, monkeypatch, arguments, code, message):
    monkeypatch.setenv("PYGSCHNET_OFFLINE", "1")
    ase.io.write("argon.extxyz", list(argon(10)))
    assert message in pygschnet_command(*arguments, code=code)


def test_files_fetched_by_hand(folder, pygschnet_command, monkeypatch):
    monkeypatch.setenv("PYGSCHNET_OFFLINE", "1")
    Path("fetched").mkdir()
    np.savez("fetched/md17_ethanol.npz", z=[8, 1], R=np.full((5, 2, 3), [[0], [0.55]]), E=np.arange(5.0))
    download = ("data", "download", "--data", "MD17", "--data.molecule", "ethanol", "--data.root", "raw", "--from_file")
    assert pygschnet_command(*download, "fetched/md17_ethanol.npz") == "raw/md17/md17_ethanol.npz\n"
    assert Path("raw/md17/md17_ethanol.npz").read_bytes() == Path("fetched/md17_ethanol.npz").read_bytes()
    assert Path("raw/md17/md17_ethanol.npz.sha256").exists()
    Path("other.npz").write_bytes(b"PK")
    assert "other.npz is not wanted; the files are md17_ethanol.npz" in pygschnet_command(
        *download, "other.npz", code=1
    )


def test_interrupted(folder, pygschnet_command, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    ase.io.write("argon.extxyz", list(argon(3)))
    monkeypatch.setattr("pygschnet.datasets.convert.suspicions", interrupt)
    convert = ("data", "convert", "argon.extxyz", "argon.safetensors")
    assert pygschnet_command(*convert, code=130) == "pygschnet: interrupted\n"
    assert {path.name for path in folder.iterdir()} == {"argon.extxyz", "tiny.yaml"}


def test_every_data_set_explains_itself(pygschnet_command):
    for name in ("MD17", "QM9", "ISO17", "QM7X", "ANI1", "Files"):
        with pytest.raises(SystemExit):
            pygschnet_command("data", "info", f"--data.help={name}")


def test_print_config_shows_all_settings(pygschnet_command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pygschnet", "fit", "--data", "QM9", "--print_config"])
    with pytest.raises(SystemExit):
        main()
    settings = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]
    assert settings["train"] == 110_000 and settings["batch_size"] == 32 and settings["target"] == "U0"
