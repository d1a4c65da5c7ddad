"""Model files: the same numbers back, and a clear refusal of everything else."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import pygschnet
from pygschnet import AtomisticModel, Atomwise, InputError
from pygschnet.representations import Representation
from pygschnet.saving import PRESETS, architecture, build
from tests.structures import MODELS, ethanol, graph, make_model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_numbers_come_back(name, dtype, tmp_path):
    model = make_model(name).to(dtype)
    data = graph(ethanol(), model)
    model.head.fit(data.z, torch.zeros_like(data.z), torch.tensor([-4215.123456789]))
    pygschnet.save(model, tmp_path / "model.safetensors", {"note": "trained on nothing"})
    loaded = pygschnet.load(tmp_path / "model.safetensors")
    assert torch.equal(loaded(data).energy, model(data).energy)
    assert torch.equal(loaded(data).forces, model(data).forces)
    assert architecture(loaded.representation) == architecture(model.representation)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def write(path, metadata):
    save_file({"x": torch.zeros(1)}, path, metadata)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path, "there is no file"),
        (lambda path: path.write_bytes(b"") and None, "not a model file"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})) and None, "not a model file"),
        (lambda path: write(path, {}), "not a model of this package"),
        (lambda path: write(path, {"pygschnet": json.dumps({"format": 99, "version": "9.0"})}), "update pygschnet"),
    ],
)
def test_files_that_are_no_models(make, message, tmp_path):
    path = tmp_path / "model.safetensors"
    make(path)
    with pytest.raises(InputError, match=message):
        pygschnet.load(path)


def test_a_file_cut_short(tmp_path):
    path = tmp_path / "model.safetensors"
    pygschnet.save(make_model("paper"), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged"):
        pygschnet.load(path)


def test_what_a_file_says_of_itself(tmp_path):
    model = make_model("paper").float()
    model.head.fit(torch.tensor([8, 1, 1]), torch.zeros(3, dtype=torch.long), torch.tensor([-2081.0]))
    pygschnet.save(model, tmp_path / "model.safetensors", {"steps": 3})
    description = pygschnet.describe(tmp_path / "model.safetensors")
    assert description["elements"] == ["H", "O"] and description["cutoff"] is None
    assert description["preset"] == "paper" and description["summary"] == {"steps": 3}
    assert description["units"]["forces"] == "eV/Å" and description["dtype"] == "float32"
    pygschnet.save(make_model("short"), tmp_path / "model.safetensors")
    assert pygschnet.describe(tmp_path / "model.safetensors")["preset"] is None


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_recognised(name, tmp_path):
    pygschnet.save(pygschnet.preset(name), tmp_path / "model.safetensors")
    assert pygschnet.describe(tmp_path / "model.safetensors")["preset"] == name


def test_a_file_of_format_1():
    path = Path(__file__).with_name("fixtures") / "model_format_1.safetensors"
    model, summary = pygschnet.load(path), pygschnet.describe(path)["summary"]
    with torch.no_grad():
        prediction = model(graph(ethanol(), model))
    assert prediction.energy.item() == pytest.approx(summary["energy_of_ethanol_eV"], rel=1e-9)
    assert prediction.forces[0].tolist() == pytest.approx(summary["force_on_atom_0_eV_per_A"], abs=1e-8)
    assert pygschnet.describe(path)["elements"] == ["H", "C", "O"]
    assert not model.closest.any()


def test_any_byte_that_changes_is_noticed(tmp_path):
    path = tmp_path / "model.safetensors"
    pygschnet.save(make_model("short"), path)
    good = path.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    places = [0, 9, good.index(b"2.5"), good.index(b"gaussians"), header, header + 4001, len(good) - 1]
    for place in places:
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(InputError, match="damaged"):
            pygschnet.load(path)


def test_a_description_that_does_not_fit_its_weights(tmp_path):
    path = tmp_path / "model.safetensors"
    model = make_model("short")
    model.representation.filters = 13
    pygschnet.save(model, path)
    with pytest.raises(InputError, match="does not describe its own weights"):
        pygschnet.load(path)


def test_a_file_cannot_import():
    with pytest.raises(InputError, match="import antigravity first"):
        build({"class_path": "antigravity.SchNet", "init_args": {}})
    with pytest.raises(InputError, match="import os first"):
        build({"class_path": "os.system", "init_args": {"command": "true"}})


def test_interrupted_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    pygschnet.save(make_model("paper"), path)
    before = load_file(path)

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pygschnet.saving.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        pygschnet.save(make_model("pyg"), path)
    assert load_file(path).keys() == before.keys()
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


class CountNeighbours(Representation):
    """A representation of a user's own."""

    def __init__(self, features: int, cutoff: float):
        super().__init__()
        self.features, self.cutoff = features, cutoff

    def forward(self, data):
        degree = torch.bincount(data.edge_index[1], minlength=len(data.z))
        return degree.unsqueeze(-1).expand(-1, self.features).float()


def test_there_must_be_a_folder(tmp_path):
    with pytest.raises(InputError, match="there is no folder .*no/such for a.safetensors"):
        pygschnet.save(make_model("paper"), tmp_path / "no" / "such" / "a.safetensors")


def test_a_representation_of_the_users_own(tmp_path):
    model = AtomisticModel(CountNeighbours(4, 2.0), Atomwise(4))
    data = graph(ethanol(), model)
    assert model(data).forces.abs().max() == 0  # it does not depend on positions
    pygschnet.save(model, tmp_path / "model.safetensors")
    assert torch.equal(pygschnet.load(tmp_path / "model.safetensors")(data).energy, model(data).energy)
