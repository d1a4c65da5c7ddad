"""What a simulation leaves on disk: a log, a trajectory, and the state from which it goes on exactly."""

import json
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

from pygschnet.datasets.readers import array_of, open_npz
from pygschnet.errors import InputError
from pygschnet.files import replacing, write_npz

COLUMNS = ("step", "time_fs", "potential_eV", "kinetic_eV", "total_eV", "temperature_K", "too_close", "energy_std_eV")


class Record:
    """The folder of a simulation.

    Log and trajectory only grow. The state holds their sizes, so that what was written after it, before an
    interruption, is taken back when the simulation goes on.

    Args:
        folder: of the simulation.
        settings: what must be the same when it goes on.
        restart: whether to go on with what the folder holds.

    Raises:
        InputError: if the folder holds a simulation already, or none to go on with, or one with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], restart: bool):
        self.folder = folder
        self.log, self.trajectory, self._state = (folder / n for n in ("md.csv", "trajectory.extxyz", "state.npz"))
        written = folder / "settings.json"
        if not restart:
            if written.exists():
                raise InputError(f"{folder} holds a simulation: choose another --out, or go on with --restart true")
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(written) as part:
                part.write_text(json.dumps(settings, indent=2) + "\n")
            self.log.write_text(",".join(COLUMNS) + "\n")
            self.trajectory.write_text("")
            return
        if not self._state.exists():
            raise InputError(f"{folder} holds no simulation to go on with")
        try:
            before = dict(json.loads(written.read_text()))
        except (ValueError, TypeError):
            raise InputError(f"{written} is damaged") from None
        if changed := [name for name in settings if settings[name] != before.get(name)]:
            told = ", ".join(f"{name} was {before.get(name)}, now {settings[name]}" for name in changed)
            raise InputError(f"the simulation in {folder} cannot go on with other settings: {told}")

    def restore(self, atoms: Atoms, rng: np.random.Generator) -> int:
        """Put atoms and random numbers where they were, and return the step.

        Raises:
            InputError: if the state is damaged.
        """
        with open_npz(self._state) as file:
            state = {name: array_of(file, name, self._state) for name in file.files}
        try:
            atoms.positions, atoms.cell = state["positions"], state["cell"]
            atoms.set_momenta(state["momenta"], apply_constraint=False)
            rng.bit_generator.state = json.loads(str(state["random"]))
            step, sizes = int(state["step"]), state["sizes"].tolist()
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self._state} is damaged, or of another simulation: {error}") from None
        for path, size in zip((self.log, self.trajectory), sizes, strict=True):
            with path.open("r+") as file:
                file.truncate(size)
        return step

    def add(self, step: int, time_fs: float, atoms: Atoms, rng: np.random.Generator) -> None:
        """A line of the log, a frame of the trajectory, the state."""
        results = atoms.calc.results
        potential, kinetic = results["energy"], atoms.get_kinetic_energy()
        row = (step, time_fs, potential, kinetic, potential + kinetic, atoms.get_temperature())
        extra = (int(results["too_close"].sum()), results.get("energy_std", ""))
        with self.log.open("a") as log:
            log.write(",".join(f"{value!r}" if value != "" else "" for value in map(_plain, (*row, *extra))) + "\n")
        frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info={"step": step})
        frame.set_momenta(atoms.get_momenta())
        frame.calc = SinglePointCalculator(frame, energy=potential, forces=results["forces"])
        with self.trajectory.open("a") as trajectory:
            ase.io.write(trajectory, frame, format="extxyz")
        state = {"step": step, "positions": atoms.positions, "momenta": atoms.get_momenta(), "cell": atoms.cell.array}
        sizes = [path.stat().st_size for path in (self.log, self.trajectory)]
        state |= {"random": json.dumps(rng.bit_generator.state), "sizes": sizes}
        write_npz(self._state, {name: np.asarray(value) for name, value in state.items()})

    def rows(self) -> dict[str, np.ndarray]:
        """The columns of the log."""
        table = np.genfromtxt(self.log, delimiter=",", skip_header=1, ndmin=2)
        return dict(zip(COLUMNS, table.T, strict=True))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def report(rows: dict[str, np.ndarray], atoms: Atoms) -> dict[str, Any]:
    """What the log says of a simulation.

    `drift` is the slope of the line through the total energy, times the length of the simulation; `fluctuation` is
    the root mean square distance from this line.
    """
    time, total = rows["time_fs"], rows["total_eV"] / len(atoms) * 1000
    facts: dict[str, Any] = {
        "steps": int(rows["step"][-1]),
        "time_ps": float(time[-1]) / 1000,
        "mean_temperature_K": float(rows["temperature_K"].mean()),
        "momentum_eV_fs_per_A": float(np.linalg.norm(atoms.get_momenta().sum(axis=0))) / units.fs,
        "steps_with_atoms_too_close": int((rows["too_close"] > 0).sum()),
    }
    if len(time) > 2 and time[-1] > time[0]:
        slope, start = np.polyfit(time, total, 1)
        facts["drift_meV_per_atom"] = float(slope * (time[-1] - time[0]))
        facts["drift_meV_per_atom_per_ns"] = float(slope * 1e6)
        facts["fluctuation_meV_per_atom"] = float((total - slope * time - start).std())
    if np.isfinite(rows["energy_std_eV"]).any():
        facts["highest_energy_std_eV"] = float(np.nanmax(rows["energy_std_eV"]))
    return facts
