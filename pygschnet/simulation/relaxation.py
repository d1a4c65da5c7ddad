"""Relaxation: to the nearest minimum of the energy."""

from pathlib import Path
from typing import Literal

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS

from pygschnet.calculator import Calculator
from pygschnet.errors import InputError
from pygschnet.files import replacing
from pygschnet.frames import read_frames
from pygschnet.saving import model_files

OPTIMIZERS = {"LBFGS": LBFGS, "BFGS": BFGS, "FIRE": FIRE}


def relax(
    model: str,
    file: str,
    out: str | None = None,
    max_force: float = 0.01,
    steps: int = 500,
    cell: bool = False,
    optimizer: Literal["LBFGS", "BFGS", "FIRE"] = "LBFGS",
    device: str = "cpu",
    dtype: Literal["float32", "float64"] | None = "float64",
) -> None:
    """Move the atoms of all structures of a file to the nearest minimum of the energy.

    Args:
        model: model file; several, separated by commas or as a pattern in quotes, make a committee.
        file: anything that ASE reads.
        out: file for the relaxed structures; FILE-relaxed.extxyz if null.
        max_force: the largest force that may be left on an atom, in eV/Å.
        steps: the most for each structure.
        cell: whether to relax the lattice vectors too.
        optimizer: LBFGS, BFGS or FIRE, of ASE.
        device: where to compute, such as cuda.
        dtype: precision of the networks; the model's own if null.

    Raises:
        InputError: if a structure cannot be read or does not get there, after all others have been done.
    """
    path = Path(out or f"{Path(file).with_suffix('')}-relaxed.extxyz")
    calculator = Calculator(model_files(model), device, dtype and getattr(torch, dtype))
    failed = 0
    print(f"{'structure':>9}  {'formula':<16}{'steps':>6}{'energy, eV':>18}{'change':>12}{'largest force':>15}")
    with replacing(path) as part, part.open("w") as relaxed:
        for number, atoms in enumerate(read_frames(file)):
            try:
                if isinstance(atoms, InputError):
                    raise atoms
                row, good = _relax(atoms, calculator, OPTIMIZERS[optimizer], max_force, steps, cell)
            except InputError as error:
                row, good = str(error), False
            else:
                ase.io.write(relaxed, atoms, format="extxyz")
            failed += not good
            print(f"{number:>9}  {row}", flush=True)
    print(f"the relaxed structures are in {path}")
    if failed:
        raise InputError(f"{failed} structures did not get to {max_force} eV/Å, see above")


def _relax(
    atoms: Atoms, calculator: Calculator, optimizer: type, max_force: float, steps: int, cell: bool
) -> tuple[str, bool]:
    """Relax in place; a row of the table, and whether it has arrived."""
    if cell and atoms.cell.rank < 3:
        raise InputError("there is no cell to relax")
    atoms.calc, before = calculator, None
    before = atoms.get_potential_energy()
    run = optimizer(FrechetCellFilter(atoms) if cell else atoms, logfile=None)
    good = bool(run.run(fmax=max_force, steps=steps))
    force = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    energy = atoms.get_potential_energy()
    row = f"{atoms.get_chemical_formula():<16}{run.nsteps:>6}{energy:>18.5f}{energy - before:>12.5f}{force:>15.5f}"
    return row + ("" if good else "  not there yet") + _warning(calculator), good


def _warning(calculator: Calculator) -> str:
    close = int(calculator.results["too_close"].sum())
    return f"  {close} atoms closer than in training" if close else ""
