"""`pygschnet predict MODEL FILE`: the model's numbers in both formats, and bad structures among good ones."""

import ase.build
import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms

import pygschnet
from pygschnet import InputError
from pygschnet.frames import read_frames
from tests.structures import ethanol, graph, randomise, steep_model

pytestmark = pytest.mark.filterwarnings("ignore:.*extrapolation:UserWarning")


@pytest.fixture
def model(tmp_path):
    model = steep_model().float()
    model.head.fit(torch.tensor([1, 6, 8]), torch.zeros(3, dtype=torch.long), torch.tensor([-3000.0]))
    pygschnet.save(model, tmp_path / "model.safetensors")
    return str(tmp_path / "model.safetensors")


def water_crystal():
    atoms = ase.build.molecule("H2O")
    atoms.set_cell([3.3, 3.4, 3.5])
    atoms.pbc = True
    return atoms


FRAMES = [ethanol(1), water_crystal(), Atoms("O"), ethanol(2), ase.build.molecule("CH4")]


@pytest.mark.parametrize("kind", ["extxyz", "npz"])
@pytest.mark.parametrize("given", ["extxyz", "traj"])
def test_the_models_numbers(kind, given, model, tmp_path, pygschnet_command):
    ase.io.write(tmp_path / f"frames.{given}", FRAMES)
    out = tmp_path / f"out.{kind}"
    assert "predictions of 5" in pygschnet_command(
        "predict", model, str(tmp_path / f"frames.{given}"), "--out", str(out)
    )
    network = pygschnet.load(model)
    read = ase.io.read(tmp_path / f"frames.{given}", ":")
    with torch.no_grad():
        expected = [network(graph(atoms, network)) for atoms in read]
    if kind == "npz":
        with np.load(out) as file:
            assert file["frame"].tolist() == list(range(5)) and file["atoms"].tolist() == [len(a) for a in FRAMES]
            np.testing.assert_allclose(file["energy"], [p.energy.item() for p in expected], rtol=1e-12)
            forces = torch.cat([p.forces for p in expected]).numpy()
            np.testing.assert_allclose(file["forces"], forces, atol=1e-6 * abs(forces).max())
            np.testing.assert_allclose(file["energies"], torch.cat([p.atomic_energies for p in expected]).numpy())
            assert (file["z"] == np.concatenate([a.numbers for a in FRAMES])).all() and not file["too_close"].any()
    else:
        for number, (atoms, prediction) in enumerate(zip(ase.io.read(out, ":"), expected, strict=True)):
            assert atoms.info["frame"] == number and (atoms.pbc == FRAMES[number].pbc).all()
            assert atoms.get_potential_energy() == pytest.approx(prediction.energy.item(), rel=1e-12)
            np.testing.assert_allclose(atoms.get_forces(), prediction.forces.numpy(), atol=1e-7)  # 8 digits


def test_stress_and_a_committee(model, tmp_path, pygschnet_command):
    pygschnet.save(randomise(steep_model(), 5), tmp_path / "other.safetensors")
    ase.io.write(tmp_path / "frames.extxyz", [water_crystal()])
    arguments = ("predict", str(tmp_path / "*.safetensors"), str(tmp_path / "frames.extxyz"), "--stress", "true")
    pygschnet_command(*arguments, "--out", str(tmp_path / "out.npz"))
    pygschnet_command(*arguments)
    atoms = ase.io.read(tmp_path / "frames-predicted.extxyz")
    members = []
    for name in ("model", "other"):
        calculator = pygschnet.Calculator(tmp_path / f"{name}.safetensors")
        calculator.calculate(water_crystal(), ["stress"])
        members.append(calculator.results)
    with np.load(tmp_path / "out.npz") as file:
        for name in ("energy", "forces", "stress"):
            values = np.stack([results[name] for results in members])
            flat = file[name].reshape(values[0].shape)
            np.testing.assert_allclose(flat, values.mean(axis=0), rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(
                file[f"{name}_std"].reshape(values[0].shape), values.std(axis=0, ddof=1), atol=1e-9
            )
    np.testing.assert_allclose(atoms.get_stress(), np.mean([r["stress"] for r in members], axis=0), atol=1e-7)
    assert atoms.info["energy_std"] > 0 and atoms.arrays["forces_std"].shape == (3, 3)


BAD = """\
3
Properties=species:S:1:pos:R:3
O 0 0 0
H 0.9 0 zero
H 0 0.9 0
2
Properties=species:S:1:pos:R:3
O 0 0 0
3
Properties=species:S:1:pos:R:3
O 0 0 0
H 0.9 0 0
H 0 0.9 0
2

Xx 0 0 0
H 0 0 1
1

Si 0 0 0
2

H 0 0 0
H 0 0 0
2
Properties=species:S:1:pos:R:3 pbc="T T T"
O 0 0 0
H 0 0 1
not a number of atoms
H 0 0 0
2

H 0 0 0
H 0 0 0.8
4
cut short
"""


def test_bad_structures_among_good_ones(model, tmp_path, pygschnet_command, capsys):
    (tmp_path / "bad.xyz").write_text(BAD)
    error = pygschnet_command("predict", model, str(tmp_path / "bad.xyz"), "--out", str(tmp_path / "out.npz"), code=1)
    assert "structures were left out" in error
    with np.load(tmp_path / "out.npz") as file:
        assert file["atoms"].tolist() == [3, 2] and file["frame"].tolist() == [2, 8]
    for words in (
        *("structure 0: cannot be read", "structure 1: cannot be read", "structure 3:"),
        *("structure 4: this model has not been trained on Si", "structure 5: atoms 0 and 1 stand on the same spot"),
        *("structure 6: periodic along", "structure 7: expected a number of atoms", "structure 9: cannot be read"),
    ):
        assert words in error


@pytest.mark.parametrize("name", ["empty.xyz", "empty.extxyz", "empty.traj", "missing.xyz", "noise.traj"])
def test_files_without_structures(name, model, tmp_path, pygschnet_command):
    if not name.startswith("missing"):
        (tmp_path / name).write_bytes(b"" if name.startswith("empty") else bytes(range(256)))
    error = pygschnet_command("predict", model, str(tmp_path / name), code=1)
    assert "holds no structures" in error or "there is no file" in error or "cannot be read" in error
    if not name.startswith("noise"):
        with pytest.raises(InputError):
            list(read_frames(tmp_path / name))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "out.csv"), "written as .extxyz or .npz"),
        (("--out", "{file}"), "overwritten by its own predictions"),
        (("--out", "no/such/folder/out.npz"), "there is no folder no/such/folder for out.npz"),
        (("--device", "nowhere"), "there is no device nowhere"),
        (("--stress", "true"), "three lattice vectors"),
    ],
)
def test_refused(arguments, message, model, tmp_path, monkeypatch, pygschnet_command):
    monkeypatch.chdir(tmp_path)
    ase.io.write("frames.xyz", [ethanol()])
    arguments = [argument.format(file="frames.xyz") for argument in arguments]
    assert message in pygschnet_command("predict", model, "frames.xyz", *arguments, code=1)
    assert "no file fits" in pygschnet_command("predict", "nothing*.safetensors", "frames.xyz", code=1)
