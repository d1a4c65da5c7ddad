"""Frames of one molecule, and whether their energies and forces agree."""

import warnings
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch_geometric.data import Data

from pygschnet.errors import InputError
from pygschnet.graph import molecule_index


class Frames(NamedTuple):
    """Frames of one molecule, in float64.

    Attributes:
        z: atomic numbers.
        pos: positions in Å.
        forces: in eV/Å.
        energy: in eV; None if not known.
    """

    z: Int[Tensor, "atoms"]
    pos: Float[Tensor, "frames atoms 3"]
    forces: Float[Tensor, "frames atoms 3"]
    energy: Float[Tensor, "frames"] | None


def collect(batches: Iterable[Data], what: str, most: int | None = None) -> Frames:
    """The frames of some batches.

    Args:
        batches: of frames of one molecule, with forces.
        what: "training" or "validation", for messages.
        most: frames to take; all of them if null.

    Raises:
        InputError: if there are none, or they are crystals, of several molecules, or without forces.
    """
    z, pos, forces, energy, count = None, [], [], [], 0
    for data in batches:
        if "forces" not in data:
            raise InputError(f"GDML learns from forces, and the {what} data have none: use data that have, or SchNet")
        if "cell" in data and data.pbc.any():
            raise InputError(f"the {what} data are crystals, and GDML is a force field of one molecule: use SchNet")
        batch, molecules = molecule_index(data)
        numbers, atoms = data.z.cpu(), len(data.z) // max(molecules, 1)
        z = numbers[:atoms] if z is None else z
        same = bool((torch.bincount(batch, minlength=molecules) == len(z)).all())
        if not same or not torch.equal(numbers, z.repeat(molecules)):
            raise InputError(
                f"the {what} data hold several molecules, or atoms in different orders: GDML is a force field of one "
                "molecule with its atoms in one order. Select one, or use SchNet"
            )
        pos.append(data.pos.detach().cpu().double().view(molecules, atoms, 3))
        forces.append(data.forces.detach().cpu().double().view(molecules, atoms, 3))
        if "energy" in data:
            energy.append(data.energy.detach().cpu().double())
        count += molecules
        if most is not None and count >= most:
            break
    if z is None or count == 0:
        raise InputError(f"there are no {what} data" + (": give one σ alone" if what == "validation" else ""))
    if len(z) < 2:
        raise InputError("GDML describes molecules by distances between atoms, and there is only one atom")
    found = Frames(z, torch.cat(pos), torch.cat(forces), torch.cat(energy) if len(energy) == len(pos) else None)
    return found if most is None else Frames(z, *(None if part is None else part[:most] for part in found[1:]))


def energy_constant(integrated: Float[Tensor, "frames"], energy: Float[Tensor, "frames"]) -> float:
    """c, the mean of what integrated forces leave of the energies, in eV.

    Args:
        integrated: energies of the training frames from the forces, but for a constant, in eV.
        energy: their labels, in eV.

    Raises:
        InputError: if the forces are those of the energies with the opposite sign.

    Source: the checks of the code of sGDML.
    """
    constant = float((energy - integrated).mean())
    if len(energy) < 3 or energy.std() < 1e-9 or integrated.std() < 1e-9:
        return constant  # nothing to compare
    correlation = float(torch.corrcoef(torch.stack([integrated, energy]))[0, 1])
    slope = correlation * float(energy.std() / integrated.std())
    if correlation < -0.95:
        raise InputError(
            "the forces in the training data seem to be gradients, of the opposite sign: energies fall where they "
            "should rise. Change the sign of the forces"
        )
    if correlation < 0.95:
        warnings.warn(
            f"energies and integrated forces of the training data hardly agree: their correlation is {correlation:.2f}."
            " Either there are too few frames, or energies and forces are not of the same frames and method",
            stacklevel=2,
        )
    elif abs(slope - 1) > 0.1:
        warnings.warn(
            f"energies change {slope:.2f} times as much as the forces in the training data say: are the energies in "
            "eV and the forces in eV/Å? Set the units of the data",
            stacklevel=2,
        )
    return constant
