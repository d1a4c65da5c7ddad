"""Force fields written by the code of sGDML."""

import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.lib.npyio import NpzFile

from pygschnet.datasets.readers import array_of, open_npz
from pygschnet.elements import check_atomic_numbers
from pygschnet.errors import InputError
from pygschnet.gdml import GDML
from pygschnet.gdml.descriptor import atom_pairs
from pygschnet.heads import Sum
from pygschnet.model import AtomisticModel
from pygschnet.units import unit_factor

NAMES = ({"points": "R_desc", "directions": "R_d_desc_alpha"}, {"points": "Rt_desc", "directions": "Rt_d_desc_alpha"})
"""Of the arrays, in the present code and in that of 2018."""

FURTHER = {"lattice": "periodic boundaries", "alphas_E": "constraints on energies"}
"""What a file may hold that cannot be converted."""


def is_force_field(path: str | Path) -> bool:
    """Whether a file is an npz file with the arrays of sGDML."""
    try:
        with zipfile.ZipFile(path) as file:
            return {"perms.npy", "sig.npy"} <= set(file.namelist())
    except Exception:  # what is no zip file, or damaged, others are to explain
        return False


def force_field(path: str | Path, energy_unit: str | None, length_unit: str) -> AtomisticModel:
    """The model in a file of sGDML; its energies have the opposite sign there.

    Args:
        path: of the npz file, which is read without running anything in it.
        energy_unit: of the model; null for what the file says.
        length_unit: of the model, where the file does not say.

    Raises:
        InputError: for other files, and models that cannot be represented.
    """
    path = Path(path)
    with open_npz(path) as file:
        if rest := [what for name, what in FURTHER.items() if name in file]:
            raise InputError(f"{path} is a model with {' and '.join(rest)}, which cannot be converted")
        if energy_unit is None and "e_unit" not in file:
            raise InputError(
                f"{path} does not say its unit of energy: give --energy_unit, such as kcal/mol (MD17) or eV"
            )
        energy = unit_factor(energy_unit or str(array_of(file, "e_unit", path)), "energy")
        length = unit_factor(str(array_of(file, "r_unit", path)) if "r_unit" in file else length_unit, "pos")
        names = next((names for names in NAMES if names["points"] in file), NAMES[0])
        z, permutations, points, directions, sigma, constant, std = (
            _numbers(file, name, path)
            for name in ("z", "perms", names["points"], names["directions"], "sig", "c", "std")
        )
    atoms, points = len(z), points.T
    z, directions = z.long(), directions.view(len(directions), -1) * -std
    permutations = permutations.long() - int(permutations.min())  # they are counted from 1 in old files
    check_atomic_numbers(z)
    pairs = atoms * (atoms - 1) // 2
    if points.shape != directions.shape or points.shape[1] != pairs or permutations.shape[1:] != z.shape:
        raise InputError(f"{path} is no force field of {atoms} atoms: its arrays do not fit together")
    if not (permutations.sort(1).values == torch.arange(atoms)).all():
        raise InputError(f"{path} is damaged: what it calls perms are no permutations of {atoms} atoms")
    gdml = GDML(symmetric=len(permutations) > 1, sigmas=[float(sigma) / length])
    gdml.take(
        z, permutations, points / length, directions * energy / length, float(sigma) / length, float(constant) * energy
    )
    model = AtomisticModel(gdml, Sum())
    model.head.fit(z, torch.zeros_like(z), torch.zeros(1, dtype=torch.float64))
    nearest = (length / points.max(0).values).to(model.closest)  # of each pair in training
    i, j = z[atom_pairs(atoms)]
    model.closest.fill_(math.inf)
    for first, second in ((i, j), (j, i)):
        model.closest.view(-1).scatter_reduce_(0, first * len(model.closest) + second, nearest, "amin")
    return model.eval()


def _numbers(file: NpzFile, name: str, path: Path) -> torch.Tensor:
    """An array as a tensor in float64; 1 for a standard deviation that old files have multiplied in."""
    if name == "std" and name not in file:
        return torch.ones((), dtype=torch.float64)
    if name not in file:
        raise InputError(f"{path} is no force field of sGDML: {name} is missing")
    array = array_of(file, name, path)
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise InputError(f"{name} of {path} holds something else than finite numbers")
    return torch.from_numpy(array.astype(np.float64))
