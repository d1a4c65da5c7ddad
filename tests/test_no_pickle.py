"""Nothing in the package runs what a file holds."""

import ast
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import pygschnet

PACKAGE = Path(pygschnet.__file__).parent


class Payload:
    """Unpickling it leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def plain(path, payload):
    path.write_bytes(pickle.dumps(payload))


def by_torch(path, payload):
    torch.save({"state_dict": payload, "model": payload}, path)


def by_torch_as_before(path, payload):
    torch.save(payload, path, _use_new_zipfile_serialization=False)


def by_numpy(path, payload):
    objects = np.array([payload], dtype=object)
    with path.open("wb") as file:
        np.savez(file, R=objects, z=objects, E=objects, F=objects, positions=objects, indices=objects)


def in_a_zip(path, payload):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(payload))


WRITERS = (plain, by_torch, by_torch_as_before, by_numpy, in_a_zip)
COMMANDS = {
    "model of predict": ("bad.safetensors", ["predict", "{bad}", "{good}"]),
    "structures of predict": ("bad.traj", ["predict", "{model}", "{bad}"]),
    "structures of relax": ("bad.extxyz", ["relax", "{model}", "{bad}"]),
    "structures of md": ("bad.db", ["md", "{model}", "{bad}"]),
    "model of evaluate": ("bad.safetensors", ["evaluate", "{bad}", "{good}"]),
    "data of evaluate": ("bad.npz", ["evaluate", "{model}", "{bad}"]),
    "model of doctor": ("bad.safetensors", ["doctor", "{bad}"]),
    "source of convert": ("bad.pt", ["convert", "{bad}", "{out}", "--energy_unit", "eV"]),
    "model of export": ("bad.safetensors", ["export", "{bad}", "{out}"]),
    "data, npz": ("bad.npz", ["data", "info", "{bad}"]),
    "data, converted": ("bad.safetensors", ["data", "info", "{bad}"]),
    "data, hdf5": ("bad.h5", ["data", "info", "{bad}"]),
    "data, db": ("bad.db", ["data", "info", "{bad}"]),
    "data of PyG": ("bad.pt", ["data", "info", "{bad}", "--data", "QM9"]),
    "checkpoint": ("bad.ckpt", ["test", "--data", "MD17", "--data.path", "{good}", "--ckpt_path", "{bad}"]),
    "configuration": ("bad.yaml", ["fit", "-c", "{bad}"]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_planted_pickle_is_not_run(command, write, tmp_path, monkeypatch, capsys):
    from pygschnet.cli import main

    name, arguments = COMMANDS[command]
    mark, bad, model = tmp_path / "mark", tmp_path / name, tmp_path / "model.safetensors"
    write(bad, Payload(mark))
    pygschnet.save(pygschnet.preset("schnetpack"), model)
    good = Path(__file__).parents[1] / "data" / "ethanol.npz"
    places = {"bad": bad, "model": model, "good": good, "out": tmp_path / "out"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pygschnet", *(argument.format(**places) for argument in arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code and not mark.exists()
    assert "Traceback" not in capsys.readouterr().err


def test_the_payload_works(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "mark")))
    assert (tmp_path / "mark").is_dir()


def test_no_module_reads_pickles():
    """Every call of `torch.load` and `numpy.load` says that it reads no objects, and nobody calls pickle's readers."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            called, settings = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called == "torch.load":
                assert settings.get("weights_only") == "True", f"{path}, line {node.lineno}"
            if called == "np.load":
                assert settings.get("allow_pickle") == "False", f"{path}, line {node.lineno}"
            assert called not in ("pickle.load", "pickle.loads", "pickle.Unpickler"), f"{path}, line {node.lineno}"
            assert not called.startswith(("dill.", "joblib.", "marshal.")), f"{path}, line {node.lineno}"
