"""`pygschnet explain`: what it refuses, what it leaves out and says so, and that its numbers are those of the model."""

import sys

import ase.build
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import pygschnet
from pygschnet import AtomisticModel, Atomwise, SchNet
from pygschnet.datasets import Files
from pygschnet.heads import Dipole
from pygschnet.interpret.command import explain, read_molecules
from pygschnet.interpret.explanation import arrays, explain_molecule, ranges, trained_probes
from tests.structures import ethanol, randomise, steep_model


def known(model: AtomisticModel) -> AtomisticModel:
    model.head.elements[[1, 6, 8]] = True
    return model


@pytest.fixture
def model_file(tmp_path):
    pygschnet.save(known(steep_model().float()), tmp_path / "model.safetensors")
    return str(tmp_path / "model.safetensors")


def test_what_cannot_be_explained_is_refused_at_once(model_file, tmp_path, monkeypatch, pygschnet_command):
    monkeypatch.chdir(tmp_path)
    ase.io.write("chloride.xyz", ase.build.molecule("CH3Cl"))
    ase.io.write("many.extxyz", [ase.build.molecule("CH4")] * 9)
    (tmp_path / "broken.xyz").write_text("5\nhello\nC 0 0 0\n")
    for arguments, said in (
        (("nothing.xyz",), "there is no file nothing.xyz"),
        (("broken.xyz",), "structure 0 of broken.xyz: cannot be read"),
        (("many.extxyz",), "more than 8 molecules are too many for one page"),
        (("chloride.xyz",), "not been trained on Cl"),
        (("C6H6", "--probes", "H,N"), "not been trained on N, only on H, C, O: no such probe"),
        (("C6H6", "--probes", "Xx"), "'Xx' is no element"),
        (("C6H6", "--spacing", "5"), "spacing must be between 0.02 and 1 Å, got 5.0"),
        (("C6H6", "-o", str(tmp_path)), "is a folder: name the page"),
        (("C6H6", "-o", "no/report.html"), "there is no folder no for report.html"),
    ):
        assert said in pygschnet_command("explain", model_file, *arguments, code=1)
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".html", ".part")]


def test_without_plotly_it_says_what_to_install(model_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(pygschnet.InputError, match="pip install plotly"):
        explain(model_file, ["H2O"], str(tmp_path / "report.html"))


def test_a_page_that_cannot_be_written_leaves_the_old_one(model_file, tmp_path, monkeypatch):
    old = tmp_path / "report.html"
    old.write_text("old")

    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        explain(model_file, ["H2O"], str(old), spacing=0.5)
    assert old.read_text() == "old" and not list(tmp_path.glob("*.part"))


def test_a_model_without_patterns_says_so(tmp_path, capsys):
    schnet = SchNet(16, 12, 2, gaussians=10, gaussian_stop=5.0, gamma=None, cutoff=5.0, cutoff_form="cosine")
    pygschnet.save(known(AtomisticModel(schnet, Atomwise(16, activation="silu"))), tmp_path / "model.safetensors")
    ase.io.write(tmp_path / "data.extxyz", [ethanol(seed) for seed in range(12)])
    data = Files(str(tmp_path / "data.extxyz"), keys={"energy": None})
    explain(str(tmp_path / "model.safetensors"), ["H2O"], str(tmp_path / "report.html"), data=data, spacing=0.5)
    assert "NOTE the model: left out patterns" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "figure-environments" in page and "figure-signal_quality" not in page


def test_molecules_have_names(tmp_path):
    ase.io.write(tmp_path / "a.xyz", [ase.build.molecule("CH4"), ase.build.molecule("H2O")])
    ase.io.write(tmp_path / "b.extxyz", Atoms("H", info={"name": "a proton's better half"}))
    named = read_molecules([str(tmp_path / "a.xyz"), str(tmp_path / "b.extxyz"), "C6H6", "C6H6"])
    assert list(named) == ["a-0", "a-1", "a proton's better half", "C6H6", "C6H6-4"]
    assert len(named["C6H6"]) == 12


@pytest.mark.parametrize("atoms", [Atoms("H"), Atoms("OH", [[0, 0, 0], [30.0, 0, 0]])], ids=["one", "apart"])
def test_atoms_alone(atoms):
    found = explain_molecule(known(steep_model()), atoms, spacing=0.4, probes=["H"])
    assert found.left_out == [] and len(found.bonds) == 0 and np.isfinite(found.space.on_surface).all()
    assert found.walks.of_atoms().shape == found.sensitivity.shape == (len(atoms),)


def test_crystals_have_less():
    crystal = bulk("C", cubic=True)
    found = explain_molecule(known(steep_model()), crystal)
    assert found.space is None and found.walks is None and found.environments == []
    assert len(found.left_out) == 3 and all("periodic" in reason for reason in found.left_out)
    assert abs(found.contributions.missing) < 1e-9


def test_models_that_have_less():
    schnet = SchNet(16, 12, 2, gaussians=10, gaussian_stop=5.0, gamma=None, cutoff=5.0, cutoff_form="cosine")
    for head, missing in (
        (Atomwise(16, activation="silu"), {"walks"}),
        (Atomwise(16, aggregation="mean"), {"walks", "Ω"}),
    ):
        found = explain_molecule(known(AtomisticModel(schnet, head).eval()), ethanol(), spacing=0.4, probes=["H"])
        assert {reason.split()[0].rstrip(":") for reason in found.left_out} == missing


def test_charges_are_among_the_numbers():
    schnet = SchNet(16, 12, 2, gaussians=10, gaussian_stop=5.0, gamma=None, cutoff=5.0, cutoff_form="cosine")
    model = known(randomise(AtomisticModel(schnet, Atomwise(16), {"dipole": Dipole(16)})).double().eval())
    found = explain_molecule(model, ethanol(), spacing=0.4, probes=["H"])
    assert found.contributions.properties["charges"].sum() == pytest.approx(0, abs=1e-12)
    numbers = arrays(found, ["H"])
    np.testing.assert_array_equal(numbers["charges"], found.contributions.properties["charges"])


def test_colours_are_shared_and_seeds_give_a_spread():
    first, second = known(steep_model()), known(steep_model())
    for parameter in second.parameters():
        parameter.data *= 1.1
    found = [
        explain_molecule(first, atoms, spacing=0.4, probes=["H", "C"], others=[second])
        for atoms in (ethanol(), ase.build.molecule("CH4"))
    ]
    ends = ranges(["H", "C"], found)
    for row, probe in enumerate("HC"):
        values = np.concatenate([each.space.on_surface[row] for each in found])
        inside = (values >= ends[probe][0]) & (values <= ends[probe][1])
        assert inside.mean() == pytest.approx(0.96, abs=0.01)
    networks = [
        explain_molecule(m, ethanol(), spacing=0.4, probes=["H"]).contributions.network for m in (first, second)
    ]
    np.testing.assert_allclose(found[0].spread, np.std(networks, axis=0, ddof=1))


def test_probes_are_those_the_model_knows():
    model = steep_model()
    assert trained_probes(model, None) == ["H", "C", "N", "O"]  # nobody has said what it was trained on
    assert trained_probes(known(model), None) == ["H", "C", "O"]
