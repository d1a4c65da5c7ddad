"""The command line, as a person uses it."""

import csv
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import pygschnet
from pygschnet.cli import main
from pygschnet.datasets import MD17
from tests.test_datasets import frames

TINY = """
model:
  representation: {class_path: SchNet, init_args: {features: 8, filters: 8, interactions: 1, gaussians: 10,
    gaussian_stop: 5.0, gamma: null, cutoff: 4.0, cutoff_form: cosine}}
  head: {class_path: Atomwise, init_args: {features: 8, hidden: 4}}
data: {class_path: MD17, init_args: {train: 10, val: 4, batch_size: 5}}
trainer: {max_steps: 6, enable_progress_bar: false, enable_model_summary: false}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("frames.npz", **frames())
    Path("tiny.yaml").write_text(TINY)
    return tmp_path


FIT = ("fit", "-c", "tiny.yaml", "--data.path", "frames.npz", "--run_dir", "run")


def test_fit_resume_test_predict(folder, pygschnet_command):
    output = pygschnet_command(*FIT)
    assert "training on cpu" in output and "test: forces MAE" in output and "kcal/mol/Å" in output
    run = folder / "run"
    written = {path.name for path in run.iterdir()}
    assert written == {
        "checkpoints", "config.yaml", "learning_curves.png", "logs", "metrics.json", "model.safetensors",
        "parity_energy.png", "parity_forces.png", "split.npz",
    }  # fmt: skip
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["energy_mae"]["unit"] == "eV" and metrics["test"]["forces_mae"]["unit"] == "eV/Å"
    assert metrics["steps"] == 6 and metrics["seed"] == 0 and metrics["split"]["train"] == 10
    assert metrics["wall_time_s"] > 0 and metrics["data"]["units"]["energy"] == "kcal/mol"
    assert metrics["versions"]["pygschnet"] == pygschnet.__version__
    for picture in run.glob("*.png"):
        assert picture.read_bytes()[:4] == b"\x89PNG" and picture.stat().st_size > 5000

    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["representation"]["init_args"]["cutoff"] == 4.0
    assert config["data"]["init_args"]["path"] == "frames.npz"

    # the saved model gives the errors of the report
    model = pygschnet.load(run / "model.safetensors")
    data = MD17("frames.npz", train=10, val=4, cutoff=4.0)
    data.setup("test")
    batch = data.molecules.batch(data.split["test"])
    error = (model(batch).forces - batch.forces).abs().mean().item()
    assert error == pytest.approx(metrics["test"]["forces_mae"]["value"], rel=1e-5)

    # again: refused; resumed: goes on from step 6
    assert "run holds a finished run" in pygschnet_command(*FIT, code=1)
    resumed = pygschnet_command("fit", "-c", "run/config.yaml", "--ckpt_path", "last", "--trainer.max_steps", "12")
    assert "model, metrics and plots are in run" in resumed
    assert json.loads((run / "metrics.json").read_text())["steps"] == 12
    assert yaml.safe_load((run / "config.yaml").read_text())["ckpt_path"] is None
    logs = sorted(run.glob("logs/*/metrics.csv"))
    rows = [row for path in logs for row in csv.DictReader(path.read_text().splitlines())]
    steps = [int(row["step"]) for row in rows if row["val/loss"]]
    assert len(logs) == 2
    assert steps == sorted(steps) and steps[-1] >= 11

    before = json.loads((run / "metrics.json").read_text())["test"]
    assert "test: energy MAE" in pygschnet_command("test", "-c", "run/config.yaml")
    assert json.loads((run / "metrics.json").read_text())["test"] == before
    assert "validation: energy MAE" in pygschnet_command("validate", "-c", "run/config.yaml")

    assert "of 20 molecules are in run/predictions.npz" in pygschnet_command("predict", "-c", "run/config.yaml")
    with np.load("run/predictions.npz") as predictions:
        everything = data.molecules.batch(range(20))
        best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
        model.load_state_dict({k.removeprefix("averaged."): v for k, v in best.items() if k.startswith("averaged.")})
        np.testing.assert_allclose(predictions["forces"], model(everything).forces.detach(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(predictions["energy"], model(everything).energy.detach(), rtol=1e-9)
        assert predictions["atoms"].tolist() == [3] * 20


def test_a_training_without_any_validation_saves_what_it_has(folder, pygschnet_command):
    output = pygschnet_command(*FIT, "--trainer.val_check_interval", "50", "--trainer.check_val_every_n_epoch", "null")
    assert "model, metrics and plots are in run" in output and Path("run/model.safetensors").exists()
    assert "test: energy MAE" in pygschnet_command("test", "-c", "run/config.yaml")


def test_energies_only(folder, pygschnet_command):
    arrays = frames()
    del arrays["F"]
    np.savez("frames.npz", **arrays)
    output = pygschnet_command(*FIT, "--model.rho", "0")
    assert "test: energy MAE" in output and "forces" not in output
    assert "forces_mae" not in json.loads((folder / "run/metrics.json").read_text())["test"]


def test_print_config_shows_the_preset(folder, monkeypatch, capsys):
    command = "pygschnet fit -c preset:pyg --data MD17 --data.path frames.npz --model.rho 5 --print_config"
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit) as stop:
        main()
    config = yaml.safe_load(capsys.readouterr().out)
    assert stop.value.code == 0 and config["model"]["rho"] == 5
    assert config["model"]["representation"]["init_args"]["cutoff"] == 10.0
    assert "cutoff" not in config["data"]["init_args"]  # it comes from the model


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data.path", "missing.npz"], 1, "there is no file missing.npz"),
        (["--data.train", "30"], 1, "30 for train .* 34 structures asked for, but only 20 are there"),
        (["--data.trian", "30"], 2, "trian"),
        (["--model.rho", "-1"], 1, "must not be negative"),
        (["--model.rho", "much"], 2, "rho"),
        (["--model.head.features", "4"], 1, "gives 8 features, the head takes 4"),
        (["-c", "preset:spk"], 1, "no preset 'spk': choose one of default, paper"),
        (["-c", "missing.yaml"], 2, "missing.yaml"),
        (["--ckpt_path", "last"], 1, "run holds no checkpoint to resume from"),
        (["--data.layout", "rmd17"], 1, "which the layout rmd17 needs; it has z, R, E, F"),
        (["--data.energy_unit", "kcal"], 1, "'kcal' is no unit of energy: give one like eV"),
    ],
)
def test_mistakes(folder, pygschnet_command, arguments, code, message):
    error = pygschnet_command(*FIT, *arguments, code=code)
    assert message.split(" .* ")[0] in error
    assert len(error.splitlines()) < 12
    assert not (folder / "run").exists()


def test_missing_forces(folder, pygschnet_command):
    arrays = frames()
    del arrays["F"]
    np.savez("frames.npz", **arrays)
    assert "the data have none: set rho to 0" in pygschnet_command(*FIT, code=1)
    assert not (folder / "run").exists()


class Malicious:
    def __reduce__(self):
        return (Path("planted").touch, ())


@pytest.mark.parametrize("damage", ["pickle", "planted", "cut", "empty"])
@pytest.mark.parametrize("command", ["fit", "test"])
def test_checkpoints_that_are_none(folder, pygschnet_command, damage, command):
    pygschnet_command(*FIT)
    for path in (folder / "run/checkpoints").iterdir():
        if damage == "pickle":
            path.write_bytes(pickle.dumps(Malicious()))
        elif damage == "planted":
            torch.save({"state_dict": Malicious()}, path)
        else:
            path.write_bytes(path.read_bytes()[:-2000] if damage == "cut" else b"")
    resume = ("--ckpt_path", "last", "--trainer.max_steps", "12") if command == "fit" else ()
    error = pygschnet_command(command, "-c", "run/config.yaml", *resume, code=1)
    assert "is not a checkpoint, or is damaged" in error
    assert not (folder / "planted").exists()


def test_nothing_to_test(folder, pygschnet_command):
    error = pygschnet_command("test", "-c", "tiny.yaml", "--data.path", "frames.npz", "--run_dir", "run", code=1)
    assert "there is no trained model run/checkpoints/best.ckpt" in error


def test_help_and_exit_code_of_the_command(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "pygschnet", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    shown = run("--help")
    assert shown.returncode == 0 and "Train a model, test it" in shown.stdout and "preset:paper" in shown.stdout
    failed = run("fit", "--data", "MD17", "--data.path", "no.npz")
    assert failed.returncode == 1 and "pygschnet: error: there is no file no.npz" in failed.stderr
    assert "Traceback" not in failed.stderr and not any(path.is_file() for path in tmp_path.rglob("*"))


def test_out_of_memory(folder, pygschnet_command, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("pygschnet.training.AtomisticModule.training_step", full)
    error = pygschnet_command(*FIT, code=1)
    assert "--data.batch_size 16 with --trainer.accumulate_grad_batches 2 gives those of 32" in error


def test_progress_has_units_and_time_and_loggers_are_added(folder, pygschnet_command):
    mine = ("--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", "mine")
    shown = pygschnet_command(*FIT, *mine, "--trainer.enable_progress_bar", "true", "--trainer.val_check_interval", "2")
    assert "meV/Å" in shown and "left=0:00:0" in shown and "v_num" not in shown
    assert re.search(r"a step on \d+ atoms takes about \d+ MB of \d+ MB", shown)
    assert (folder / "run/logs/version_0/metrics.csv").exists() and list((folder / "mine").rglob("events.*"))


def test_bfloat16(folder, pygschnet_command):
    """Dense layers in bfloat16; energies are still summed in float64, and near those of float32."""
    errors = []
    for run, precision in (("run", "32-true"), ("bf16", "bf16-mixed")):
        pygschnet_command(*FIT, "--run_dir", run, "--trainer.precision", precision)
        errors.append(json.loads((folder / run / "metrics.json").read_text())["test"]["energy_mae"]["value"])
    assert errors[0] != errors[1] and errors[1] == pytest.approx(errors[0], rel=0.05)
