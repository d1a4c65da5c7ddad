"""Molecular dynamics with a trained model."""

import json
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.velocitydistribution import Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from tqdm import tqdm

from pygschnet.calculator import Calculator
from pygschnet.errors import InputError
from pygschnet.files import replacing
from pygschnet.frames import read_frames
from pygschnet.saving import model_files
from pygschnet.simulation.plots import plot_simulation
from pygschnet.simulation.record import Record, report

HOTTEST = 100_000.0
"""Kelvin; a simulation that gets there has exploded."""


def md(
    model: str,
    file: str,
    out: str | None = None,
    steps: int = 10_000,
    time_step: float = 0.5,
    ensemble: Literal["nve", "langevin"] = "langevin",
    temperature: float = 300.0,
    friction: float = 0.01,
    interval: int = 10,
    frame: int = 0,
    seed: int = 0,
    restart: bool = False,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] | None = None,
) -> None:
    """Run molecular dynamics from a structure, with its velocities if it has any.

    Everything stands in one folder: md.csv (energies, temperature, how many atoms are closer to each other than any in
    training), trajectory.extxyz, md.png, report.json with the drift of the energy, and the state to go on from.

    Args:
        model: model file; several, separated by commas or as a pattern in quotes, make a committee.
        file: anything that ASE reads.
        out: folder; runs/md-FILE if null.
        steps: how many in all.
        time_step: in fs.
        ensemble: nve keeps the energy, langevin the temperature.
        temperature: in K; of the velocities to begin with, too, where the structure has none.
        friction: of the Langevin thermostat, in 1/fs.
        interval: steps between lines of the log, frames of the trajectory and states.
        frame: which structure of the file, from 0.
        seed: of the velocities and of the thermostat.
        restart: whether to go on, exactly, with the simulation in the folder.
        device: where to compute, such as cuda.
        dtype: precision of the networks; the model's own if null.

    Raises:
        InputError: for structures or folders that cannot be used, or if the simulation explodes.
    """
    if steps < 1 or interval < 1 or time_step <= 0 or temperature < 0 or friction < 0 or frame < 0:
        raise InputError("steps, interval and time_step must be above 0; temperature, friction and frame not below it")
    atoms = next(islice(read_frames(file), frame, None), InputError(f"{file} has no structure {frame}"))
    if isinstance(atoms, InputError):
        raise atoms
    rng = np.random.default_rng(seed)
    calculator = Calculator(model_files(model), device, dtype and getattr(torch, dtype))
    atoms.calc = calculator
    if not atoms.get_momenta().any():
        thermalise(atoms, temperature, rng)
    atoms.get_potential_energy()  # refuses what the model cannot do before there is a folder
    thermostat = {"temperature": temperature, "friction": friction} if ensemble == "langevin" else {}
    settings = {"file": file, "frame": frame, "model": model, "ensemble": ensemble, "time_step": time_step}
    settings |= {**thermostat, "interval": interval, "seed": seed, "dtype": dtype}
    record = Record(Path(out or f"runs/md-{Path(file).stem}"), settings, restart)
    first = record.restore(atoms, rng) if restart else 0
    if first >= steps:
        raise InputError(f"the simulation in {record.folder} has made {first} steps already: give more --steps")
    dynamics: MolecularDynamics = VelocityVerlet(atoms, time_step * units.fs)
    if ensemble == "langevin":
        coupling = {"temperature_K": temperature, "friction": friction / units.fs}
        dynamics = Langevin(atoms, time_step * units.fs, fixcm=False, rng=rng, **coupling)
    started = time.perf_counter()
    try:
        _run(dynamics, atoms, rng, record, range(first, steps, interval), steps, time_step)
    except KeyboardInterrupt:
        print(f"interrupted; pygschnet md ... --out {record.folder} --restart true goes on", file=sys.stderr)
        raise
    _finish(record, atoms, ensemble == "nve", (steps - first) / (time.perf_counter() - started))


def thermalise(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Give atoms velocities of a temperature, without drift, and without rotation if they are not periodic."""
    scale = np.sqrt(units.kB * temperature * atoms.get_masses())
    atoms.set_momenta(scale[:, None] * rng.standard_normal((len(atoms), 3)))
    if len(atoms) > 1:
        Stationary(atoms)
    if len(atoms) > 2 and not atoms.pbc.any():
        ZeroRotation(atoms)


def _run(
    dynamics: MolecularDynamics,
    atoms: Atoms,
    rng: np.random.Generator,
    record: Record,
    starts: range,
    steps: int,
    time_step: float,
) -> None:
    if starts.start == 0:
        record.add(0, 0.0, atoms, rng)
    with tqdm(total=steps, initial=starts.start, unit=" steps", disable=None) as progress:
        for start in starts:
            count = min(starts.step, steps - start)
            dynamics.run(count)
            temperature = atoms.get_temperature()
            if not temperature < HOTTEST:
                raise InputError(
                    f"the simulation has exploded before step {start + count}: its temperature is {temperature:.0f} K. "
                    "Shorten the time step, relax the structure first, or train on more structures like those in "
                    f"{record.trajectory}"
                )
            record.add(start + count, (start + count) * time_step, atoms, rng)
            progress.set_postfix_str(f"{atoms.get_potential_energy():.3f} eV, {temperature:.0f} K", refresh=False)
            progress.update(count)


def _finish(record: Record, atoms: Atoms, conserved: bool, speed: float) -> None:
    rows = record.rows()
    facts: dict[str, Any] = report(rows, atoms) | {"steps_per_second": speed}
    if not conserved:
        facts = {name: value for name, value in facts.items() if not name.startswith(("drift", "fluctuation"))}
    with replacing(record.folder / "report.json") as part:
        part.write_text(json.dumps(facts, indent=2) + "\n")
    plot_simulation(rows, len(atoms), conserved, record.folder / "md.png")
    for name, value in facts.items():
        words, unit = _spell(name)
        print(f"  {words:<34}{value:>14.6g} {unit}")
    print(f"log, trajectory, picture and report are in {record.folder}")


def _spell(name: str) -> tuple[str, str]:
    """A name of the report in words, and its unit."""
    for ending, unit in UNITS_OF_REPORT.items():
        if name.endswith(ending):
            return name.removesuffix(ending).replace("_", " "), unit
    return name.replace("_", " "), ""


UNITS_OF_REPORT = {
    "_meV_per_atom_per_ns": "meV/atom/ns",
    "_meV_per_atom": "meV/atom",
    "_eV_fs_per_A": "eV·fs/Å",
    "_ps": "ps",
    "_K": "K",
    "_eV": "eV",
}
