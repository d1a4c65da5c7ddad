"""What the doctor finds: that all is well, and what is not."""

import json
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

import pygschnet
from pygschnet import AtomisticModel, Atomwise, SchNet
from pygschnet.doctor import cost, doctor, kernels, machine
from pygschnet.graph import torch_cluster
from pygschnet.kernels import cpu
from pygschnet.training import AtomisticModule

RUN = """
model:
  representation: {class_path: pygschnet.SchNet, init_args: {features: 8, gaussians: 6, interactions: 1, cutoff: 4.0}}
  head: {class_path: pygschnet.Atomwise, init_args: {features: 8}}
  rho: 1.0
data:
  class_path: pygschnet.datasets.MD17
  init_args: {path: frames.npz, train: 20, val: 6, batch_size: 5, eval_batch_size: 2}
trainer: {max_steps: 1000, val_check_interval: 100, check_val_every_n_epoch: null}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cost, "STEPS", 4)
    rng = np.random.default_rng(0)
    water = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    frames = {"R": water + rng.normal(scale=0.03, size=(30, 3, 3)), "E": rng.normal(-47900, 1, 30), "z": [8, 1, 1]}
    np.savez("frames.npz", **frames, F=rng.normal(scale=20, size=(30, 3, 3)))
    Path("config.yaml").write_text(RUN)
    return tmp_path


def write_model(*elements: int) -> AtomisticModel:
    model = AtomisticModel(SchNet(8, 8, 1, gaussians=6, gaussian_stop=4.0, cutoff=4.0), Atomwise(8))
    model.head.elements[list(elements)] = True
    pygschnet.save(model, "model.safetensors", {"steps": 7, "wall_time_s": 61.0, "device": "cpu"})
    return model


needs_compiler = pytest.mark.skipif(cpu.library(torch.float32) is None, reason="needs a C compiler")


def test_all_is_well(folder, capsys):
    assert doctor(json="facts.json") == 0
    output, facts = capsys.readouterr().out, json.loads(Path("facts.json").read_text())
    assert facts["versions"]["torch"].startswith(version("torch")) and not facts["broken"]
    assert str(Path(pygschnet.__file__).parent) in facts["versions"]["pygschnet"]
    assert facts["devices"]["cpu"]["threads"] == torch.get_num_threads()
    assert "BROKEN" not in output and f"ase               {version('ase')}" in output
    assert max(len(line) for line in output.splitlines() if not line.startswith("NOTE")) <= 120


@needs_compiler
def test_kernels_are_run_and_right():
    facts, problems = kernels.check_kernels()
    assert not any(problem.broken for problem in problems)
    for dtype in ("float32", "float64"):
        assert {"aggregate", "pair_dot", "table_grad", "ssp", "splines"} <= facts[f"cpu {dtype}"]["off"].keys()
    assert "molecule" in facts["cpu float32"]["off"]


@needs_compiler
@pytest.mark.parametrize("name", ["aggregate", "pair_dot", "table_grad", "ssp", "splines", "molecule"])
def test_a_wrong_kernel_is_found(folder, monkeypatch, capsys, name):
    call = cpu.call

    def wrong(kernel, arrays, *sizes, dtype=None):
        failed = call(kernel, arrays, *sizes, dtype=dtype)
        if kernel == name:
            output = {"ssp": arrays[1], "splines": arrays[2], "molecule": arrays[-3]}.get(name, arrays[-1])
            output *= 1.001
        return failed

    monkeypatch.setattr(cpu, "call", wrong)
    assert doctor() == 1
    text = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("BROKEN"))
    assert name in text.partition(" on cpu float32 gives wrong numbers")[0] and "delete" in text


@needs_compiler
def test_a_kernel_of_no_numbers_is_found(monkeypatch):
    monkeypatch.setattr(cpu, "pair_dot", lambda g, x, table, pairs: torch.full((len(pairs[0]), 6), torch.nan))
    assert any("pair_dot" in problem.text for problem in kernels.check_kernels()[1] if problem.broken)


def test_no_compiler_is_not_broken(folder, monkeypatch, capsys):
    monkeypatch.setenv("CC", "no-such-compiler")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert doctor() == 0
    finally:
        cpu.library.cache_clear()
    output = capsys.readouterr().out
    assert output.count("no compiled kernels on cpu, so it is slow (there is no C compiler 'no-such-compiler')") == 1


@pytest.mark.skipif(torch_cluster is None, reason="needs torch-cluster")
def test_wrong_edges_are_found(monkeypatch):
    radius_graph = torch_cluster.radius_graph
    monkeypatch.setattr(torch_cluster, "radius_graph", lambda *a, **k: radius_graph(*a, **k)[:, 2:])
    assert kernels.check_edges()[1][0].broken


def test_requirements():
    assert machine.unmet(["numpy>=1", "h5py>=99; extra == 'hdf5'"]) == []
    old, missing = machine.unmet(["numpy>=99", "no-such-package>=1"])
    assert old == f"numpy {version('numpy')} does not meet numpy>=99: pip install 'numpy>=99'"
    assert missing.startswith("no-such-package, which is not installed, does not meet")


def test_model_and_data(folder, capsys):
    model = write_model(1, 8)
    before = Path("model.safetensors").read_bytes()
    assert doctor("model.safetensors", "frames.npz", json="facts.json") == 0
    output, facts = capsys.readouterr().out, json.loads(Path("facts.json").read_text())
    assert facts["model"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert facts["model"]["elements"] == ["H", "O"] and facts["model"]["cutoff"] == 4.0
    assert facts["data"]["molecules"] == 30 and facts["training"]["structures"] == 24
    assert "7 steps in 0:01:01 on cpu" in output and "trained on        H, O" in output
    assert Path("model.safetensors").read_bytes() == before


def test_a_whole_training(folder, capsys):
    assert doctor(config="config.yaml", json="facts.json") == 0
    facts = json.loads(Path("facts.json").read_text())["training"]
    assert (facts["steps per epoch"], facts["steps"], facts["validations"]) == (4, 1000, 10)
    assert facts["atoms per step"] == 15 and facts["pairs per step"] == 15  # three pairs in each of five molecules
    assert facts["seconds per epoch"] == pytest.approx(4 * facts["seconds per step"])
    wanted = 1000 * facts["seconds per step"] + 10 * facts["seconds per validation"]
    assert facts["seconds"] == pytest.approx(wanted)
    assert 1e-4 < facts["seconds per step"] < 10
    assert "1,000 steps and 10 validations" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "steps", "between"),
    [
        ({"max_epochs": 10}, 400, 40),
        ({"max_epochs": 10, "max_steps": 100}, 100, 40),
        ({"max_steps": 100, "val_check_interval": 20, "check_val_every_n_epoch": None}, 100, 20),
        ({"max_epochs": 3, "val_check_interval": 0.5}, 120, 20),
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, 120, 80),
        ({"max_epochs": -1, "max_steps": -1}, None, 40),
        ({}, None, 40),
    ],
)
def test_the_length_of_a_training(settings, steps, between):
    assert cost.whole(settings, 40) == steps
    assert cost.between_validations(settings, 40) == between


def test_too_little_memory(folder, monkeypatch, capsys):
    monkeypatch.setattr(cost, "device_megabytes", lambda device: 0.001)
    assert doctor(config="config.yaml") == 1
    assert "BROKEN a step takes" in capsys.readouterr().out


def test_memory_that_runs_out(folder, monkeypatch, capsys):
    def full(*arguments):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(AtomisticModule, "training_step", full)
    assert doctor(config="config.yaml") == 1
    assert "BROKEN out of memory. Take smaller batches" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "nothing"}, "there is no file nothing"),
        ({"model": "config.yaml"}, "config.yaml is not a model file"),
        ({"file": "nothing.npz"}, "there is no file nothing.npz"),
        ({"config": "nothing.yaml"}, "there is no file nothing.yaml"),
        ({"config": "other.yaml"}, "other.yaml does not describe a model and data"),
        ({"config": "wrong.yaml"}, "wrong.yaml cannot be used"),
        ({"model": "model.safetensors", "file": "frames.npz"}, "the data hold O, on which the model"),
    ],
)
def test_what_cannot_be_used(folder, capsys, arguments, message):
    write_model(1, 6)
    Path("other.yaml").write_text("a: 1")
    Path("wrong.yaml").write_text(RUN.replace("features", "feathers"))
    assert doctor(**arguments) == 1
    output = capsys.readouterr().out
    assert f"BROKEN {message}" in output and "python" in output
