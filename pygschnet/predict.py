"""Predictions for all structures of a file."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from tqdm import tqdm

from pygschnet.calculator import Calculator
from pygschnet.errors import InputError
from pygschnet.files import replacing, write_npz
from pygschnet.frames import read_frames
from pygschnet.saving import model_files

OWN = ("energy", "free_energy", "forces", "stress", "energies", "dipole", "charges")
"""What ASE's results have a place for; everything else is written beside them."""

PER_ATOM = ("forces", "energies", "charges", "too_close")
"""Results with a row for each atom, as have their standard deviations."""


def predict(
    model: str,
    file: str,
    out: str | None = None,
    stress: bool = False,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] | None = None,
) -> None:
    """Predict energies and forces of all structures of a file, in eV and eV/Å.

    Structures that cannot be read or predicted are reported, and the others done. The results hold `too_close` for
    atoms that come nearer to each other than any in training, and the standard deviations of a committee.

    Args:
        model: model file; several, separated by commas or as a pattern in quotes, make a committee.
        file: anything that ASE reads.
        out: file for the results: .extxyz, or .npz with the structures' numbers in `frame`, one after the other, their
            sizes in `atoms`; FILE-predicted.extxyz if null.
        stress: whether to predict stresses too, in eV/Å³, as xx, yy, zz, yz, xz, xy; of crystals only.
        device: where to compute, such as cuda.
        dtype: precision of the networks; the model's own if null.

    Raises:
        InputError: if anything was left out, after everything else has been done.
    """
    path = Path(out or f"{Path(file).with_suffix('')}-predicted.extxyz")
    if path.suffix not in (".extxyz", ".xyz", ".npz"):
        raise InputError(f"results are written as .extxyz or .npz, not to {path}")
    if path.resolve() == Path(file).resolve():
        raise InputError(f"{path} would be overwritten by its own predictions: choose another --out")
    calculator = Calculator(model_files(model), device, dtype and getattr(torch, dtype))
    errors: list[str] = []
    frames = predictions(file, calculator, stress, errors)
    count = (_write_arrays if path.suffix == ".npz" else _write_frames)(path, frames)
    print(f"predictions of {count} structures are in {path}")
    if errors:
        raise InputError(f"{len(errors)} structures were left out, see above")


def predictions(
    file: str | Path, calculator: Calculator, stress: bool, errors: list[str]
) -> Iterator[tuple[int, Atoms, dict[str, Any]]]:
    """Number, structure and results of all structures that can be predicted.

    Args:
        file: of the structures.
        calculator: predicts them.
        stress: whether to predict stresses.
        errors: to which what is wrong with the others is added; it is printed too.
    """
    for number, atoms in enumerate(tqdm(read_frames(file), "predicting", unit=" structures", disable=None)):
        try:
            if isinstance(atoms, InputError):
                raise atoms
            calculator.calculate(atoms, ["energy", "forces", "stress"][: 2 + stress])
        except InputError as error:
            errors.append(f"structure {number}: {error}")
            tqdm.write(errors[-1], file=sys.stderr)
            continue
        yield number, atoms, calculator.results


def _write_frames(path: Path, frames: Iterator[tuple[int, Atoms, dict[str, Any]]]) -> int:
    count = 0
    with replacing(path) as part, part.open("w") as file:
        for number, atoms, results in frames:
            labelled = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info={"frame": number})
            for name, values in results.items():
                if name not in OWN:
                    (labelled.arrays if name.removesuffix("_std") in PER_ATOM else labelled.info)[name] = values
            labelled.calc = SinglePointCalculator(labelled, **{n: v for n, v in results.items() if n in OWN})
            ase.io.write(file, labelled, format="extxyz")
            count += 1
    return count


def _write_arrays(path: Path, frames: Iterator[tuple[int, Atoms, dict[str, Any]]]) -> int:
    columns: dict[str, list[Any]] = {"frame": [], "atoms": []}
    for number, atoms, results in frames:
        columns["frame"].append([number])
        columns["atoms"].append([len(atoms)])
        columns.setdefault("z", []).append(atoms.numbers)
        for name, values in results.items():
            per_atom = name.removesuffix("_std") in PER_ATOM
            columns.setdefault(name, []).append(values if per_atom else np.asarray(values)[None])
    write_npz(path, {name: np.concatenate(values) if values else np.zeros(0) for name, values in columns.items()})
    return len(columns["frame"])
