"""The works of `peers.py` and their inputs: molecules from ideal geometries, cubes of atoms."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from ase.data import atomic_numbers
from torch_geometric.data import Batch, Data

from pygschnet import RadiusGraph

ETHANOL = Path(__file__).parents[2] / "data" / "ethanol.npz"
NOISE = 0.05  # Å, standard deviation per coordinate of the copies of a molecule
DENSITY = 0.1  # atoms/Å³ of the cubes
JITTER = 0.6  # Å; on a lattice of 2.15 Å no two atoms come closer than 0.95 Å

Molecule = tuple[np.ndarray, np.ndarray]  # atomic numbers, positions in Å

# element, then for bond, angle and dihedral: the atom referred to and Å or degrees
ASPIRIN = """
C
C  0 1.40
C  1 1.39   0 120
C  2 1.39   1 120   0 0
C  3 1.39   2 120   1 0
C  4 1.39   3 120   2 0
H  2 1.085  3 120   4 180
H  3 1.085  4 120   5 180
H  4 1.085  5 120   0 180
H  5 1.085  0 120   1 180
C  0 1.49   1 122   2 180
O 10 1.21   0 124   1 180
O 10 1.34   0 113   1 0
H 12 0.97  10 107   0 180
O  1 1.39   0 119   5 180
C 14 1.36   1 118   0 100
O 15 1.20  14 123   1 0
C 15 1.50  14 111   1 180
H 17 1.09  15 110  14 60
H 17 1.09  15 110  14 180
H 17 1.09  15 110  14 300
"""

CYCLOHEXANE = """
C
C 0 1.535
C 1 1.535  0 111.4
C 2 1.535  1 111.4  0 55
C 3 1.535  2 111.4  1 -55
C 4 1.535  3 111.4  2 55
""" + "".join(
    f"H {k} 1.10  {(k + 1) % 6} 109.2  {(k + 2) % 6} {turn * (-1) ** k}\n" for k in range(6) for turn in (65, 185)
)


def from_internal(rows: str) -> Molecule:
    """Positions from bond lengths, angles and dihedrals."""
    symbols, positions = [], np.zeros((0, 3))
    for row in rows.split("\n")[1:-1]:
        symbol, *numbers = row.split()
        symbols.append(symbol)
        references = [int(number) for number in numbers[::2]]
        length, angle, dihedral = [float(number) for number in numbers[1::2]] + [0.0] * (3 - len(references))
        # what the first three atoms have no atom for is anything not on one line
        a, b, c = [*positions[references], *np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0]])[len(references) :]]
        angle, dihedral = np.deg2rad([angle, dihedral])
        axis = (b - a) / np.linalg.norm(b - a)
        normal = np.cross(c - b, axis)
        normal /= np.linalg.norm(normal)
        side = np.cross(axis, normal)
        direction = np.cos(angle) * axis + np.sin(angle) * (np.cos(dihedral) * side + np.sin(dihedral) * normal)
        positions = np.vstack([positions, a + length * direction])
    return np.array([atomic_numbers[symbol] for symbol in symbols]), positions


def ethanols(count: int) -> list[Molecule]:
    with np.load(ETHANOL) as file:
        return [(file["z"], positions) for positions in file["R"][:: len(file["R"]) // count][:count]]


def copies(rows: str, count: int) -> list[Molecule]:
    """Copies of a molecule, each with noise of its own."""
    rng = np.random.default_rng(0)
    z, positions = from_internal(rows)
    return [(z, positions + rng.normal(scale=NOISE, size=positions.shape)) for _ in range(count)]


def cube(side: int) -> list[Molecule]:
    """side³ atoms of H, C and O on a lattice, shaken."""
    rng = np.random.default_rng(0)
    lattice = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3) * DENSITY ** (-1 / 3)
    return [(rng.choice([1, 6, 8], len(lattice)), lattice + rng.uniform(-JITTER, JITTER, lattice.shape))]


class Work(NamedTuple):
    name: str
    preset: str  # "schnetpack" is network B of the README
    train: bool
    molecules: Callable[[], list[Molecule]]
    peers: bool = True  # whether the peers take part


part = functools.partial
WORKS = {
    1: Work("training step, paper, 32 ethanols", "paper", True, part(ethanols, 32)),
    2: Work("training step, B, 32 ethanols", "schnetpack", True, part(ethanols, 32)),
    3: Work("training step, B, 32 x 18 atoms", "schnetpack", True, part(copies, CYCLOHEXANE, 32)),
    4: Work("training step, B, 32 aspirins", "schnetpack", True, part(copies, ASPIRIN, 32)),
    5: Work("training step, B, 1,000 atoms", "schnetpack", True, part(cube, 10)),
    6: Work("E + F, B, 1,000 atoms", "schnetpack", False, part(cube, 10)),
    7: Work("E + F, B, 8,000 atoms", "schnetpack", False, part(cube, 20)),
    8: Work("E + F, B, one ethanol", "schnetpack", False, part(ethanols, 1)),
    9: Work("E + F, B, one aspirin", "schnetpack", False, part(copies, ASPIRIN, 1)),
    10: Work("E + F, B, 27,000 atoms", "schnetpack", False, part(cube, 30), peers=False),
    11: Work("E + F, B, 64,000 atoms", "schnetpack", False, part(cube, 40), peers=False),
    12: Work("training step, default, 8 ethanols", "default", True, part(ethanols, 8)),
}
SCALING = (6, 7, 10, 11)


def graph(work: Work, cutoff: float | None) -> Data:
    """The input of a work with its complete edges, and labels that any model is far from."""
    generator = torch.Generator().manual_seed(0)
    items = []
    for z, positions in work.molecules():
        items.append(Data(z=torch.from_numpy(z).long(), pos=torch.from_numpy(positions).float()))
        items[-1].energy = torch.randn(1, generator=generator, dtype=torch.float64)
        items[-1].forces = torch.randn(len(z), 3, generator=generator)
    return RadiusGraph(cutoff)(Batch.from_data_list(items) if len(items) > 1 else items[0])
