"""Exported files give the model's numbers without the package, or are refused."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
import torch
from ase.data import covalent_radii
from torch_geometric.data import Data

import pygschnet
from pygschnet import AtomisticModel, Atomwise, InputError, RadiusGraph, SchNet
from pygschnet.export import export, package, write
from pygschnet.export.accuracy import cases, choose_knots, deviation, inputs
from pygschnet.export.package import read
from pygschnet.export.program import Program
from pygschnet.export.structures import crystals, from_file, molecules
from pygschnet.nn.cutoff import FORMS
from pygschnet.nn.table import Knots
from tests.structures import ethanol, graph, make_model, randomise

ROOT = Path(__file__).parents[1]
ELEMENTS = torch.tensor([1, 6, 8])

needs_compiler = pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def few_structures(monkeypatch):
    monkeypatch.setattr(package, "MOLECULES", (1, 2, 5, 12))
    monkeypatch.setattr(package, "CRYSTALS", (2, 11))
    monkeypatch.setattr(package, "FROM_DATA", 10)


def known(model):
    """As if trained on H, C and O, with atomic energies near those of all electrons."""
    model.head.fit(ELEMENTS, torch.arange(3), torch.tensor([-2041.0, -2040.0, -2042.0]))
    return model


def short(form="polynomial", cutoff=3.0):
    representation = SchNet(16, 12, 2, gaussians=16, gaussian_stop=3.0, gamma=None, cutoff=cutoff, cutoff_form=form)
    return known(randomise(AtomisticModel(representation, Atomwise(16, activation="silu"))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def files(folder):
    """Model, program read from its file, path and report, each made once."""
    made = {}
    makers = {
        "compiled": (short, "short.pt2"),
        "paper": (lambda: known(randomise(pygschnet.preset("paper"))), "paper.ep"),
        "schnetpack": (lambda: known(randomise(pygschnet.preset("schnetpack"))), "schnetpack.ep"),
        "float64": (lambda: short().double(), "float64.ep"),
    }

    def get(name):
        if name not in made:
            make, file = makers[name]
            model = make().eval()
            report = write(model, folder / file)
            made[name] = (model, read(folder / file), folder / file, report)
        return made[name]

    return get


NAMES = [pytest.param("compiled", marks=needs_compiler), "paper", "schnetpack", "float64"]


def water_box():
    molecule = ase.build.molecule("H2O")
    molecule.set_cell([3.1, 3.1, 3.1])
    molecule.pbc = True
    atoms = molecule * (3, 2, 2)
    atoms.rattle(0.1, seed=1)
    return atoms


def small_triclinic():
    """A cell smaller than the cutoff: atoms neighbour their own images."""
    cell = [[2.2, 0.0, 0.1], [0.6, 2.4, 0.0], [-0.3, 0.5, 2.3]]
    return ase.Atoms("HCO", scaled_positions=[[0, 0, 0], [0.5, 0.4, 0.1], [0.2, 0.6, 0.55]], cell=cell, pbc=True)


STRUCTURES = {
    "a molecule": ethanol,
    "a box of water": water_box,
    "a cell smaller than the cutoff": small_triclinic,
    "one atom, no edges": lambda: ase.Atoms("O"),
    "two atoms far apart": lambda: ase.Atoms("HO", [[0, 0, 0], [0, 0, 41.5]]),
}


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", NAMES)
def test_a_file_gives_the_models_numbers(name, structure, files):
    model, program, *_ = files(name)
    atoms = STRUCTURES[structure]()
    if atoms.pbc.any() and model.cutoff is None:
        pytest.skip("this model has no cutoff")
    data = graph(atoms, model)
    model.representation.filters_from = "edges"
    expected = model(data, stress="cell" in data)
    energy, atomic, forces, virial = program(*inputs(data))
    noise = 1e-5 * (expected.atomic_energies - model.head.mu).abs().max().item()  # of what the network gives
    torch.testing.assert_close(atomic, expected.atomic_energies, rtol=0, atol=noise)
    torch.testing.assert_close(energy, expected.energy[0], rtol=0, atol=noise * len(atoms))
    noise = 1e-5 * expected.forces.detach().abs().max().item() + 1e-6
    torch.testing.assert_close(forces, expected.forces, rtol=0, atol=noise)
    if "cell" in data:
        stress = -virial / torch.linalg.det(data.cell[0])
        noise = 1e-5 * expected.stress.detach().abs().max().item()
        torch.testing.assert_close(stress, expected.stress[0], rtol=0, atol=noise)
    else:
        torch.testing.assert_close(virial, forces.T @ data.pos, rtol=0, atol=50 * noise)


@pytest.mark.parametrize("name", NAMES)
def test_edges_beyond_the_cutoff_add_nothing(name, files):
    model, program, *_ = files(name)
    if model.cutoff is None:
        pytest.skip("this model has no cutoff")
    data = graph(water_box(), model)
    wider = RadiusGraph(model.cutoff + 1.5)(data)
    assert wider.edge_index.shape[1] > 1.5 * data.edge_index.shape[1]
    for found, expected in zip(program(*inputs(wider)), program(*inputs(data)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("atoms", [ethanol, water_box])
def test_forces_and_virial_are_finite_differences(atoms, files):
    (model, program, *_), step = files("float64"), 1e-4
    z, pos, edges, offsets = inputs(graph(atoms(), model))
    _, _, forces, virial = program(z, pos, edges, offsets)

    def slope(change, stretch):
        energies = [program(z, pos + s * change(pos), edges, offsets + s * stretch(offsets))[0] for s in (step, -step)]
        return (energies[0] - energies[1]) / (2 * step)

    nothing = torch.zeros_like
    for atom, axis in ((0, 0), (3, 1), (8, 2)):
        one = nothing(pos)
        one[atom, axis] = 1.0
        assert -slope(lambda _, one=one: one, nothing) == pytest.approx(forces[atom, axis].item(), rel=1e-6, abs=1e-7)
    for a, b in ((0, 0), (1, 2), (2, 2)):
        strain = torch.zeros(3, 3, dtype=torch.float64)
        strain[a, b] = 1.0
        found = -slope(lambda x, strain=strain: x @ strain, lambda x, strain=strain: x @ strain)
        assert found == pytest.approx(virial[a, b].item(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_every_cutoff_function(form):
    """The form "none" too has no neighbours beyond the radius: `RadiusGraph` gives the model none either."""
    model = short(form)
    considered = cases(model, [*molecules([1, 6, 8], (2, 9)), *crystals([1, 6, 8], (3,))])
    knots, found = choose_knots(model, considered, 1e-8)
    assert found.energy < 1e-8 and found.forces < 1e-6 and found.virial < 1e-6
    assert deviation(Program(model, knots, torch.float32), considered).energy < 1e-4


def test_coincident_atoms_and_lost_positions():
    program = Program(short(), Knots.between(0.0, 3.0, short().representation.basis), torch.float64)
    z, edges, offsets = torch.tensor([1, 6]), torch.tensor([[0, 1], [1, 0]]), torch.zeros(2, 3).double()
    assert all(output.isfinite().all() for output in program(z, torch.zeros(2, 3).double(), edges, offsets))
    lost = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, float("nan")]]).double()
    assert program(z, lost, edges, offsets)[0].isnan()


def test_finer_tables_for_smaller_errors():
    model = short()
    measured, unseen = (cases(model, molecules([1, 6, 8], (3, 8, 12) * 4, seed)) for seed in (0, 1))
    numbers, first = [], choose_knots(model, measured, 1.0)[1].energy
    for error in (2 * first, first, first / 30):
        knots, found = choose_knots(model, measured, error)
        assert found.energy <= error / 2
        assert deviation(Program(model, knots, torch.float64), unseen).energy <= error
        numbers.append(knots.number)
    assert numbers[0] < numbers[1] < numbers[2]


def test_a_bound_that_cannot_be_kept(tmp_path):
    """Filters too steep for any table."""
    model = short()
    with torch.no_grad():
        for network in model.representation.filter_networks:
            network.dense_1.weight *= 100
    with pytest.raises(InputError, match=r"cannot give .* to 1.0e-09 eV per atom: .* Allow \d") as refused:
        write(model, tmp_path / "model.ep", error=1e-9)
    assert not list(tmp_path.iterdir())
    allowed = float(re.search(r"Allow (\S+)", str(refused.value))[1])
    assert allowed > 2e-9
    choose_knots(model, cases(model, molecules([1, 6, 8], (1, 2, 5, 12))), 1.1 * allowed)


def test_elements_that_the_model_does_not_know(files):
    model, program, *_ = files("float64")
    energy, atomic, *_ = program(*inputs(graph(ase.build.molecule("CH3Cl"), short(cutoff=model.cutoff))))
    assert energy.isnan() and atomic.isnan().any()


@needs_compiler
def test_metadata(files):
    _, program, path, report = files("compiled")
    about = json.loads(program.loader.get_metadata()["pygschnet"])
    assert about == {key: value for key, value in report.items() if key != "file"}
    assert about["elements"] == ["H", "C", "O"] and about["cutoff"] == 3.0 and about["precision"] == "float32"
    assert about["version"] == pygschnet.__version__ and about["torch"] == torch.__version__
    assert about["units"] == {"pos": "Å", "energy": "eV", "forces": "eV/Å", "virial": "eV"}
    assert about["table"]["energy"] <= about["table"]["bound"] / 2 == 5e-7
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    stored = {"pygschnet": ""}
    with files("float64")[2].open("rb") as stream:
        torch.export.load(stream, extra_files=stored)
    assert json.loads(stored["pygschnet"])["precision"] == "float64"


@needs_compiler
def test_without_the_package(files, tmp_path):
    """The example, where the package cannot be imported: its energies are the model's, and are conserved."""
    model, _, path, _ = files("compiled")
    atoms = water_box()
    ase.io.write(tmp_path / "water.xyz", atoms)
    script = (
        "import runpy, sys; sys.modules['pygschnet'] = None;"
        f"runpy.run_path({str(ROOT / 'experiments/deploy/run_exported.py')!r}, run_name='__main__');"
        "assert not [name for name in sys.modules if name.startswith('pygschnet.')]"
    )
    command = [sys.executable, "-c", script, str(path), "water.xyz", "5"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    energies = np.array([re.findall(r"-?\d+\.\d+", line) for line in output.stdout.splitlines()], dtype=float)
    assert energies.shape == (6, 2)
    expected = model(graph(ase.io.read(tmp_path / "water.xyz"), model)).energy.item()
    assert energies[0, 0] == pytest.approx(expected, rel=0, abs=1e-5)
    assert np.ptp(energies[:, 1]) < 0.02 * (0.01 + np.ptp(energies[:, 0]))


def test_a_file_that_differs_is_refused(tmp_path, monkeypatch):
    def wrong(*arguments):
        program = Program(*arguments)
        program.dense_bias[0, 3] += 1e-3
        return program

    monkeypatch.setattr(package, "Program", wrong)
    path = tmp_path / "model.ep"
    path.write_text("an older file")
    with pytest.raises(RuntimeError, match="differs from the model by .* nothing was written"):
        write(short(), path)
    assert path.read_text() == "an older file" and len(list(tmp_path.iterdir())) == 1


class Other(SchNet):
    """Something else than SchNet."""


@pytest.mark.parametrize(
    ("model", "name", "options", "message"),
    [
        (lambda: AtomisticModel(Other(8, 8, 1), Atomwise(8)), "a.ep", {}, "only SchNet with .* has Other and Atomwise"),
        (lambda: AtomisticModel(SchNet(8, 8, 1), Atomwise(8, aggregation="mean")), "a.ep", {}, "only sums over atoms"),
        (short, "a.onnx", {}, "must end in .pt2 .* or .ep"),
        (short, "nowhere/a.ep", {}, "there is no folder .*nowhere for a.ep"),
        (short, "taken.ep", {}, "is a folder"),
        (short, "a.ep", {"error": 0.0}, "must be above 0"),
        (short, "a.ep", {"error": float("nan")}, "must be above 0"),
        (short, "a.ep", {"structures": [Data(z=torch.tensor([92]), pos=torch.zeros(1, 3))]}, "not been trained on U"),
    ],
)
def test_requests_that_are_refused(model, name, options, message, tmp_path):
    (tmp_path / "taken.ep").mkdir()
    with pytest.raises(InputError, match=message):
        write(model(), tmp_path / name, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["taken.ep"]


def test_periodic_data_for_a_model_without_cutoff(tmp_path):
    with pytest.raises(InputError, match="has no cutoff, so it cannot take"):
        write(known(pygschnet.preset("paper")), tmp_path / "a.ep", structures=crystals([1, 6], (4,)))


def test_without_a_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="there is no no-such-compiler: install"):
        write(short(), tmp_path / "a.pt2")


def test_the_command(tmp_path, capsys):
    model, output = short(), tmp_path / "model.ep"
    model.eval()
    with pytest.raises(InputError, match="there is no file"):
        export(str(tmp_path / "model.safetensors"), str(output))
    pygschnet.save(model, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="there is no file .*none.npz"):
        export(str(tmp_path / "model.safetensors"), str(output), data=str(tmp_path / "none.npz"))
    assert not output.exists()
    export(str(tmp_path / "model.safetensors"), str(output), data=str(ROOT / "data" / "ethanol.npz"))
    printed = capsys.readouterr().out
    assert "largest errors on 16 structures" in printed and "eV/atom" in printed
    data = graph(ethanol(), model)
    torch.testing.assert_close(read(output)(*inputs(data))[0], model(data).energy[0], rtol=1e-6, atol=1e-6)


def test_the_model_is_left_alone(tmp_path):
    model = make_model("short").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    write(model, tmp_path / "model.ep")
    assert model.training and model.representation.filters_from == "auto"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_structures_from_files(tmp_path):
    frames = [ethanol(1), small_triclinic(), water_box()]
    ase.io.write(tmp_path / "mixed.xyz", frames)
    found = from_file(str(tmp_path / "mixed.xyz"), 10)
    for data, atoms in zip(found, frames, strict=True):
        np.testing.assert_allclose(data.pos, atoms.positions, atol=1e-6)
        assert data.z.tolist() == atoms.numbers.tolist() and ("cell" in data) == atoms.pbc.any()
    np.testing.assert_allclose(found[1].cell[0], frames[1].cell.array, atol=1e-6)
    with np.load(ROOT / "data" / "ethanol.npz") as file:
        for data, k in zip(from_file(str(ROOT / "data" / "ethanol.npz"), 3), (0, len(file["R"]) // 2, -1), strict=True):
            assert min(np.abs(data.pos.numpy() - file["R"][k + s]).max() for s in (-1, 0)) < 1e-6


def test_generated_structures_are_sensible():
    for data in [*molecules([1, 6, 8, 14], (2, 10, 30)), *crystals([1, 6, 8, 14], (1, 8, 27))]:
        edges = RadiusGraph(8.0)(data)
        j, i = edges.edge_index
        vectors = edges.pos[j] + inputs(edges)[3] - edges.pos[i]
        radii = torch.from_numpy(covalent_radii)[edges.z]
        relative = vectors.norm(dim=1) / (radii[i] + radii[j])
        nearest = torch.full((len(edges.z),), torch.inf).double().scatter_reduce(0, i, relative, "amin")
        assert relative.min() > 0.7
        assert nearest.max() < 8.0 / radii.min()
