"""Errors of a model on labelled data, against the same computed structure by structure."""

import json
import warnings
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

import pygschnet
from pygschnet import AtomisticModel, Atomwise, InputError, RadiusGraph, SchNet
from pygschnet.datasets import Files
from pygschnet.evaluate import errors, evaluate
from tests.structures import randomise

CUTOFF = 3.0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With a model that knows H, C and O."""
    monkeypatch.chdir(tmp_path)
    representation = SchNet(16, 16, 2, gaussians=10, gaussian_stop=3.0, gamma=None, cutoff=CUTOFF, cutoff_form="cosine")
    model = AtomisticModel(representation, randomise(Atomwise(16, references={"H": -13.0, "C": -1000.0, "O": -2000.0})))
    z = torch.tensor([1, 6, 8])
    model.head.fit(z, torch.zeros(3, dtype=torch.long), torch.tensor([-3014.0]))
    pygschnet.save(model, "model.safetensors")
    return tmp_path


def predict(atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray | None]:
    model = pygschnet.load("model.safetensors")
    data = RadiusGraph(CUTOFF)(pygschnet.from_atoms(atoms))
    with torch.no_grad():
        found = model(data, stress=bool(atoms.pbc.any()))
    return found.energy.item(), found.forces.numpy(), None if found.stress is None else found.stress[0].numpy()


def structures(crystals: bool = False) -> list[Atoms]:
    """Molecules of different size, in no order, labelled by the model plus errors that are known."""
    rng = np.random.default_rng(0)
    labelled = []
    for name in ("CH4", "H2O", "CH3CH2OH", "H2O", "CH4", "C6H6", "H2O"):
        atoms = ase.build.molecule(name)
        if crystals:
            atoms.set_cell(np.diag([5.0, 6.0, 7.0]) + 0.3)
            atoms.pbc = True
        atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
        energy, forces, stress = predict(atoms)
        results = {"energy": energy + rng.normal(), "forces": forces + rng.normal(size=forces.shape)}
        if crystals:
            tensor = stress + 0.01 * rng.normal(size=(1, 6))[0][[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
            results["stress"] = tensor[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        atoms.calc = SinglePointCalculator(atoms, **results)
        labelled.append(atoms)
    return labelled


@pytest.mark.parametrize("crystals", [False, True])
@pytest.mark.parametrize("max_edges", [1, 100_000])
def test_errors_are_those_of_every_structure(folder, crystals, max_edges):
    everything = structures(crystals)
    ase.io.write("x.extxyz", everything)
    record = evaluate("model.safetensors", "x.extxyz", max_edges=max_edges)
    wanted = {"energy": [], "energy per atom": [], "forces": []} | ({"stress": []} if crystals else {})
    for atoms in everything:
        energy, forces, stress = predict(atoms)
        off = energy - atoms.get_potential_energy()
        wanted["energy"].append(off)
        wanted["energy per atom"].append(off / len(atoms))
        wanted["forces"] += (forces - atoms.get_forces()).ravel().tolist()
        if crystals:
            wanted["stress"] += (stress - atoms.get_stress(voigt=False))[*np.triu_indices(3)].tolist()
    assert record["errors"].keys() == wanted.keys()
    for name, off in wanted.items():
        found, off = record["errors"][name], np.array(off)
        assert found["count"] == len(off)
        assert found["mae"] == pytest.approx(np.abs(off).mean(), rel=1e-4), name
        assert found["rmse"] == pytest.approx(np.sqrt((off**2).mean()), rel=1e-4), name
        assert found["mean"] == pytest.approx(off.mean(), rel=1e-4, abs=1e-5), name
        assert found["largest"] == pytest.approx(np.abs(off).max(), rel=1e-4), name


def test_by_element_composition_and_structure(folder):
    everything = structures()
    ase.io.write("x.extxyz", everything)
    record = evaluate("model.safetensors", "x.extxyz")
    symbols = [symbol for atoms in everything for symbol in atoms.symbols]
    off = np.concatenate([predict(atoms)[1] - atoms.get_forces() for atoms in everything])
    assert sum(found["atoms"] for found in record["elements"].values()) == len(symbols) == record["atoms"]
    for symbol, found in record["elements"].items():
        rows = np.abs(off[np.array(symbols) == symbol])
        assert found["atoms"] == len(rows) and found["forces"]["mae"] == pytest.approx(rows.mean(), rel=1e-4)
    counts = {name: found["structures"] for name, found in record["compositions"].items()}
    assert counts == {"H2O": 3, "CH4": 2, "C2H6O": 1, "C6H6": 1} and next(iter(counts)) == "H2O"
    water = [atoms for atoms in everything if str(atoms.symbols) == "OH2"]
    energies = np.array([predict(atoms)[0] - atoms.get_potential_energy() for atoms in water])
    assert record["compositions"]["H2O"]["energy"]["mae"] == pytest.approx(np.abs(energies).mean(), rel=1e-4)
    per_atom = [abs(predict(atoms)[0] - atoms.get_potential_energy()) / len(atoms) for atoms in everything]
    worst = record["worst"]["energy per atom"]
    assert [one["structure"] for one in worst] == np.argsort(per_atom)[::-1][:5].tolist()
    assert worst[0]["rmse"] == pytest.approx(max(per_atom), rel=1e-4)


def test_a_constant_shift_is_the_error(folder, capsys):
    shifted = structures()[1::2]
    for atoms in shifted:
        energy, forces, _ = predict(atoms)
        atoms.calc = SinglePointCalculator(atoms, energy=energy - 0.5 * len(atoms), forces=forces)
    ase.io.write("x.extxyz", shifted)
    found = evaluate("model.safetensors", "x.extxyz")["errors"]
    for measure in ("mae", "rmse", "mean"):
        assert found["energy per atom"][measure] == pytest.approx(0.5, rel=1e-5)
    assert found["forces"]["largest"] < 1e-5
    assert "NOTE the energies are off by +500 meV per atom" in capsys.readouterr().out


def test_pictures_and_metrics(folder, capsys):
    ase.io.write("x.extxyz", structures(crystals=True))
    evaluate("model.safetensors", "x.extxyz", out="found/here")
    written = {path.name for path in Path("found/here").iterdir()}
    assert written == {"metrics.json", "parity_energy_per_atom.png", "parity_forces.png", "parity_stress.png"}
    for path in Path("found/here").glob("*.png"):
        assert path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 5000
    metrics = json.loads(Path("found/here/metrics.json").read_text())
    assert metrics["structures"] == 7 and metrics["errors"]["stress"]["unit"] == "eV/Å³"
    assert "GPa" in capsys.readouterr().out


def test_of_many_values_some_are_kept(folder, monkeypatch):
    monkeypatch.setattr(errors, "DRAWN", 20)
    ase.io.write("x.extxyz", 20 * structures())
    data = Files("x.extxyz", cutoff=CUTOFF)
    data.setup("predict")
    model, index = pygschnet.load("model.safetensors"), np.arange(140)
    result = errors.errors_of(model, data, index, torch.device("cpu"), 1000)
    for name, values in result.drawn.items():
        assert 5 < len(values.owner) < 50 and len(values.reference) == len(values.predicted), name
    assert len(result.drawn["forces"].z) == len(result.drawn["forces"].reference)
    assert result.sums["energy"].count.tolist() == [1] * 140


def test_isolated_atoms_are_left_out(folder):
    single = Atoms("H")
    single.calc = SinglePointCalculator(single, energy=5.0, forces=np.zeros((1, 3)))
    ase.io.write("x.extxyz", [single, *structures()])
    record = evaluate("model.safetensors", "x.extxyz")
    assert record["structures"] == 7 and "H" not in record["compositions"]
    ase.io.write("single.extxyz", [single])
    assert evaluate("model.safetensors", "single.extxyz")["structures"] == 1


def test_a_part_of_the_split(folder):
    ase.io.write("x.extxyz", structures())
    data = Files("x.extxyz", train=4, val=1, test=2)
    record = evaluate("model.safetensors", data=data, part="test")
    assert record["structures"] == 2
    assert {one["structure"] for one in record["worst"]["forces"]} == set(data.split["test"].tolist())


def test_energies_without_forces(folder):
    molecules = structures()
    for atoms in molecules:
        del atoms.calc.results["forces"]
    ase.io.write("x.extxyz", molecules)
    record = evaluate("model.safetensors", "x.extxyz")
    assert record["errors"].keys() == {"energy", "energy per atom"} and not record["elements"]


def unlabelled():
    ase.io.write("x.extxyz", [ase.build.molecule("CH4")])


def empty():
    Path("x.extxyz").write_text("")


def unknown_element():
    labelled = structures()
    for name in ("NH3", "HCN"):
        atoms = ase.build.molecule(name)
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((len(atoms), 3)))
        labelled.append(atoms)
    ase.io.write("x.extxyz", labelled)


def not_a_number():
    labelled = structures()
    labelled[2].calc.results["energy"] = np.nan
    ase.io.write("x.extxyz", labelled)


def coincident():
    labelled = structures()
    labelled[0].positions[1] = labelled[0].positions[0]
    ase.io.write("x.extxyz", labelled)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (None, "there is no file x.extxyz"),
        (empty, "x.extxyz"),
        (unlabelled, "x.extxyz has no energy, forces or stress to compare with, but positions only"),
        (unknown_element, "structure 7 holds N, but the model has been trained on H, C, O only"),
        (not_a_number, "not finite"),
        (coincident, "atoms 0 and 1 stand on the same spot"),
    ],
)
def test_bad_data(folder, make, message):
    if make is not None:
        make()
    with warnings.catch_warnings(), pytest.raises(InputError, match=message):
        warnings.simplefilter("ignore", UserWarning)  # of suspicious distances
        evaluate("model.safetensors", "x.extxyz", out="out")
    assert not Path("out").exists()


def test_bad_settings(folder):
    ase.io.write("x.extxyz", structures())
    with pytest.raises(InputError, match="there is no file nothing"):
        evaluate("nothing", "x.extxyz")
    with pytest.raises(InputError, match="give either a file"):
        evaluate("model.safetensors")
    Path("run").mkdir()
    Path("run/config.yaml").touch()
    with pytest.raises(InputError, match="run is the folder of a training"):
        evaluate("model.safetensors", "x.extxyz", out="run")
    pygschnet.save(pygschnet.preset("paper"), "paper.safetensors")
    ase.io.write("crystals.extxyz", structures(crystals=True))
    with pytest.raises(InputError, match="the model takes all pairs"):
        evaluate("paper.safetensors", "crystals.extxyz")


def test_a_broken_model_is_said_to_be(folder):
    ase.io.write("x.extxyz", structures())
    model = pygschnet.load("model.safetensors")
    with torch.no_grad():
        model.representation.embedding.weight[6] = torch.nan
    pygschnet.save(model, "broken.safetensors")
    with pytest.raises(InputError, match="predicts energy of structure 0 that are not numbers"):
        evaluate("broken.safetensors", "x.extxyz")
