"""Molecular dynamics and relaxation on the command line: exact restarts, honest reports, clear refusals."""

import json
import os
import signal
import subprocess
import sys
import time

import ase.build
import ase.io
import numpy as np
import pytest
import torch

import pygschnet
from pygschnet import Calculator
from pygschnet.simulation.record import COLUMNS, report
from tests.structures import ethanol, graph, randomise, steep_model


@pytest.fixture
def model(tmp_path):
    model = steep_model()
    model.head.fit(torch.tensor([1, 6, 8]), torch.zeros(3, dtype=torch.long), torch.tensor([-3000.0]))
    model.extend_range(graph(ethanol(), model))
    path = tmp_path / "model.safetensors"
    pygschnet.save(model, path)
    return str(path)


@pytest.fixture
def start(tmp_path):
    path = tmp_path / "start.extxyz"
    ase.io.write(path, ethanol())
    return str(path)


def files(folder):
    return {name: (folder / name).read_bytes() for name in ("md.csv", "trajectory.extxyz")}


@pytest.mark.filterwarnings("ignore:.*extrapolation:UserWarning")
@pytest.mark.parametrize("ensemble", ["nve", "langevin"])
def test_a_restart_is_exact(ensemble, model, start, tmp_path, pygschnet_command):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = ("--ensemble", ensemble, "--interval", "5", "--seed", "3")
    pygschnet_command("md", model, start, *settings, "--out", str(whole), "--steps", "40")
    pygschnet_command("md", model, start, *settings, "--out", str(parts), "--steps", "20")
    with (parts / "md.csv").open("a") as log, (parts / "trajectory.extxyz").open("a") as trajectory:
        log.write("25,12.5,what was written after the last state\n")
        trajectory.write("9\nhalf a fra")
    pygschnet_command("md", model, start, *settings, "--out", str(parts), "--steps", "40", "--restart", "true")
    assert files(parts) == files(whole)
    first, second = (ase.io.read(folder / "trajectory.extxyz", ":") for folder in (whole, parts))
    assert [frame.info["step"] for frame in first] == list(range(0, 41, 5)) and len(second) == 9


@pytest.mark.filterwarnings("ignore:.*extrapolation:UserWarning")
def test_what_is_written_is_true(model, start, tmp_path, pygschnet_command):
    out = tmp_path / "md"
    printed = pygschnet_command("md", model, start, "--ensemble", "nve", "--steps", "60", "--out", str(out))
    assert {path.name for path in out.iterdir()} == {
        *("md.csv", "trajectory.extxyz", "state.npz", "settings.json", "report.json", "md.png")
    }
    calculator = Calculator(model)
    rows = np.genfromtxt(out / "md.csv", delimiter=",", names=True)
    for frame, row in zip(ase.io.read(out / "trajectory.extxyz", ":"), rows, strict=True):
        calculator.calculate(frame, ["forces"])
        assert row["potential_eV"] == pytest.approx(calculator.results["energy"], abs=1e-5)  # 8 digits in the file
        np.testing.assert_allclose(frame.get_forces(), calculator.results["forces"], atol=1e-5)
        assert row["kinetic_eV"] == pytest.approx(frame.get_kinetic_energy(), abs=1e-5)
        assert row["total_eV"] == row["potential_eV"] + row["kinetic_eV"]
    facts = json.loads((out / "report.json").read_text())
    assert facts["steps"] == 60 and facts["time_ps"] == 0.03
    assert facts["mean_temperature_K"] == pytest.approx(rows["temperature_K"].mean())
    assert abs(facts["drift_meV_per_atom"]) < 5 and facts["momentum_eV_fs_per_A"] < 1e-9
    assert "meV/atom" in printed and "steps per second" in printed


def test_the_report_finds_drift_and_fluctuation():
    time_fs = np.linspace(0, 1000, 501)
    wave = 0.009 * np.sin(time_fs)
    rows = {name: np.zeros(501) for name in COLUMNS}
    rows |= {"time_fs": time_fs, "step": time_fs * 2, "total_eV": 5 + 0.018 * time_fs / 1000 + wave}
    rows["energy_std_eV"] = np.full(501, np.nan)
    rows["too_close"][7] = 2
    facts = report(rows, ethanol())
    assert facts["drift_meV_per_atom"] == pytest.approx(2.0, abs=0.02)
    assert facts["drift_meV_per_atom_per_ns"] == pytest.approx(2000, abs=20)
    assert facts["fluctuation_meV_per_atom"] == pytest.approx(1 / np.sqrt(2), rel=0.01)
    assert facts["steps_with_atoms_too_close"] == 1 and "highest_energy_std_eV" not in facts


@pytest.mark.filterwarnings("ignore:.*extrapolation:UserWarning")
def test_velocities_of_the_file_and_a_committee(model, tmp_path, pygschnet_command):
    atoms = ethanol()
    atoms.set_momenta(np.full((9, 3), 0.1))
    ase.io.write(tmp_path / "moving.traj", atoms)
    other = randomise(steep_model())
    pygschnet.save(other, tmp_path / "model-2.safetensors")
    out, pattern = tmp_path / "md", str(tmp_path / "model*.safetensors")
    pygschnet_command("md", pattern, str(tmp_path / "moving.traj"), "--steps", "10", "--out", str(out))
    first = ase.io.read(out / "trajectory.extxyz", 0)
    np.testing.assert_allclose(first.get_momenta(), 0.1, atol=1e-7)
    assert np.isfinite(np.genfromtxt(out / "md.csv", delimiter=",", names=True)["energy_std_eV"]).all()


def test_an_interrupted_simulation_goes_on(model, start, tmp_path):
    out = tmp_path / "md"
    command = [sys.executable, "-m", "pygschnet", "md", model, start, "--out", str(out), "--steps", "1000000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # where a shell runs the tests in the background they ignore Ctrl-C, and so would what they start
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 120
    while not (out / "state.npz").exists() or len((out / "md.csv").read_text().splitlines()) < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and "--restart true goes on" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steps", "0"), "must be above 0"),
        (("--frame", "3"), "has no structure 3"),
        (("--restart", "true"), "holds no simulation to go on with"),
        (("--device", "cuda:7"), "cuda"),
    ],
)
def test_settings_that_make_no_sense(arguments, message, model, start, tmp_path, pygschnet_command):
    out = tmp_path / "md"
    assert message in pygschnet_command("md", model, start, "--out", str(out), *arguments, code=1).lower()
    assert not out.exists()


@pytest.mark.filterwarnings("ignore:.*extrapolation:UserWarning")
def test_a_folder_holds_one_simulation(model, start, tmp_path, pygschnet_command):
    common = ("md", model, start, "--out", str(tmp_path / "md"))
    pygschnet_command(*common, "--steps", "10")
    assert "choose another --out" in pygschnet_command(*common, "--steps", "20", code=1)
    again = (*common, "--restart", "true")
    assert "time_step was 0.5, now 0.25" in pygschnet_command(*again, "--time_step", "0.25", "--steps", "20", code=1)
    assert "has made 10 steps already" in pygschnet_command(*again, "--steps", "10", code=1)


@pytest.mark.filterwarnings("ignore:.*extrapolation:UserWarning")
def test_a_damaged_state_is_refused(model, start, tmp_path, pygschnet_command):
    arguments = ("md", model, start, "--out", str(tmp_path / "md"), "--steps")
    pygschnet_command(*arguments, "10")
    state, settings = tmp_path / "md" / "state.npz", tmp_path / "md" / "settings.json"
    good = state.read_bytes()
    np.savez(state, positions=np.array([print], dtype=object))
    assert "cannot be read" in pygschnet_command(*arguments, "20", "--restart", "true", code=1)
    np.savez(state, positions=np.zeros((2, 3)), cell=np.zeros((3, 3)))
    assert "is damaged, or of another" in pygschnet_command(*arguments, "20", "--restart", "true", code=1)
    state.write_bytes(good[:200])
    assert "cut short" in pygschnet_command(*arguments, "20", "--restart", "true", code=1)
    settings.write_text("{")
    assert "settings.json is damaged" in pygschnet_command(*arguments, "20", "--restart", "true", code=1)


@pytest.mark.filterwarnings("ignore:.*extrapolation:UserWarning")
def test_an_explosion_ends_with_words(model, start, tmp_path, pygschnet_command, monkeypatch):
    monkeypatch.setattr("pygschnet.simulation.dynamics.HOTTEST", 1000.0)
    hot = ("--temperature", "3000", "--steps", "100")
    said = pygschnet_command("md", model, start, *hot, "--out", str(tmp_path / "md"), code=1)
    assert "has exploded before step" in said and "Shorten the time step" in said


@pytest.mark.filterwarnings("ignore:.*extrapolation:UserWarning")
def test_relaxation(model, tmp_path, pygschnet_command):
    ase.io.write(tmp_path / "many.extxyz", [ase.build.molecule(name) for name in ("C2H6", "CH4", "SiH4")])
    said = pygschnet_command("relax", model, str(tmp_path / "many.extxyz"), "--max_force", "0.01", code=1)
    assert "1 structures did not get to 0.01 eV/Å" in said
    relaxed = ase.io.read(tmp_path / "many-relaxed.extxyz", ":")
    assert [atoms.get_chemical_formula() for atoms in relaxed] == ["C2H6", "CH4"]
    calculator = Calculator(model, dtype=torch.float64)
    for atoms in relaxed:
        calculator.calculate(atoms, ["forces"])
        assert np.linalg.norm(calculator.results["forces"], axis=1).max() < 0.0101
        assert atoms.get_potential_energy() == pytest.approx(calculator.results["energy"], abs=1e-5)
    assert "3 structures" in pygschnet_command("relax", model, str(tmp_path / "many.extxyz"), "--cell", "true", code=1)
