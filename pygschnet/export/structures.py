"""Structures to measure an export on: from files, or made up from the elements that a model knows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ase.data import covalent_radii
from torch_geometric.data import Data

from pygschnet.datasets.border import ALIASES
from pygschnet.datasets.readers import read_ase, read_hdf5, read_npz
from pygschnet.errors import InputError

ONLY = dict.fromkeys(ALIASES.keys() - {"n_atoms", "z", "pos", "cell", "pbc"})
"""Keys that leave out everything but the structure."""

CLOSEST, BOND, WIDEST = 0.75, 0.85, 1.3
"""The least distance of any two atoms, and the least and largest of neighbours, in sums of their covalent radii."""


def from_file(path: str, count: int) -> list[Data]:
    """Structures without edges, evenly spread over a file; positions and cells in Å.

    Args:
        path: of an npz or HDF5 file, or one that ASE reads.
        count: the most that are wanted.

    Raises:
        InputError: if there is no such file, or it cannot be read.
    """
    readers = {".npz": read_npz, ".h5": read_hdf5, ".hdf5": read_hdf5}
    blocks = list(readers.get(Path(path).suffix.lower(), read_ase)(Path(path), ONLY, {}))
    places = [(block, k) for block in blocks for k in range(len(block.n_atoms))]
    if not places:
        raise InputError(f"{path} holds no structures")
    found = []
    for block, k in (places[n] for n in np.linspace(0, len(places) - 1, min(count, len(places))).astype(int)):
        end = int(block.n_atoms[: k + 1].sum())
        atoms = slice(end - int(block.n_atoms[k]), end)
        data = Data(
            z=torch.from_numpy(block.atoms["z"][atoms]).long(), pos=torch.from_numpy(block.atoms["pos"][atoms]).double()
        )
        if "pbc" in block.molecules and block.molecules["pbc"][k].any():
            data.cell = torch.from_numpy(block.molecules["cell"][k : k + 1]).double()
            data.pbc = torch.from_numpy(block.molecules["pbc"][k : k + 1])
        found.append(data)
    return found


def molecules(elements: Sequence[int], sizes: Sequence[int], seed: int = 0) -> list[Data]:
    """Clusters of atoms at random, each at a bond's length from another and none too close.

    Args:
        elements: atomic numbers to choose from.
        sizes: atoms of each cluster.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    return [_cluster(rng.choice(elements, size), rng) for size in sizes]


def crystals(elements: Sequence[int], sizes: Sequence[int], seed: int = 0) -> list[Data]:
    """Periodic structures at about the density of a solid, in triclinic cells, some smaller than a cutoff.

    Args:
        elements: atomic numbers to choose from.
        sizes: atoms of each cell.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    found = []
    for size in sizes:
        z = rng.choice(elements, size)
        side = round(size ** (1 / 3) + 0.499)
        sites = np.stack(np.unravel_index(rng.permutation(side**3)[:size], (side,) * 3), axis=-1) / side
        spacing = 1.5 * 2 * covalent_radii[z].max() + 0.5  # Å, of a lattice of which few sites are empty
        cell = side * spacing * (np.eye(3) + rng.uniform(-0.15, 0.15, (3, 3)))
        pos = sites @ cell + rng.uniform(-0.1, 0.1, (size, 3)) * spacing
        found.append(Data(z=torch.from_numpy(z).long(), pos=torch.from_numpy(pos)))
        found[-1].cell, found[-1].pbc = torch.from_numpy(cell).unsqueeze(0), torch.ones(1, 3, dtype=torch.bool)
    return found


def _cluster(z: np.ndarray, rng: np.random.Generator) -> Data:
    pos = np.zeros((1, 3))
    while (atom := len(pos)) < len(z):
        neighbour = rng.integers(atom)
        direction = rng.normal(size=3)
        reach = (covalent_radii[z[neighbour]] + covalent_radii[z[atom]]) * rng.uniform(BOND, WIDEST)
        new = pos[neighbour] + direction / np.linalg.norm(direction) * reach
        closest = CLOSEST * (covalent_radii[z[:atom]] + covalent_radii[z[atom]])
        if (np.linalg.norm(pos - new, axis=1) > closest).all():
            pos = np.vstack([pos, new])
    return Data(z=torch.from_numpy(z).long(), pos=torch.from_numpy(pos))
