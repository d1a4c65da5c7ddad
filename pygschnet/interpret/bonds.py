"""Bonds and rings of a molecule, from its geometry alone."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise, product

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from jaxtyping import Float, Int
from torch_geometric.data import Data

from pygschnet.errors import InputError

STRETCH = 1.25
"""How much longer than the sum of the covalent radii a bond may be."""

CARBON_BOND = 1.65
"""How long a bond between two carbons may be, in Å: across a bicyclopentane they come within 1.9 Å without one."""

FLAT = 0.1
"""Smallest singular value, in Å, of the centred positions of a ring, below which it is planar."""


class Bonds:
    """The bonds of a molecule: pairs closer than 1.25 (R_i + R_j), and 1.65 Å for two carbons.

    R are covalent radii. No bond orders, charges or hydrogen bonds: all that is said of a molecule here follows from
    which atoms are neighbours.

    Args:
        z: atomic numbers.
        pos: positions, Å.

    Attributes:
        neighbours: of each atom, the atoms bonded to it.
    """

    def __init__(self, z: Int[np.ndarray, "atoms"], pos: Float[np.ndarray, "atoms 3"]):
        self.z, self.pos = z, pos.astype(np.float64)
        radii = covalent_radii[z]
        longest = STRETCH * (radii + radii[:, None])
        carbon = z == 6
        longest[carbon & carbon[:, None]] = CARBON_BOND
        difference = self.pos[:, None] - self.pos
        bonded = np.einsum("ijk,ijk->ij", difference, difference) < longest**2
        np.fill_diagonal(bonded, False)
        self.neighbours = [row.nonzero()[0].tolist() for row in bonded]

    @property
    def pairs(self) -> Int[np.ndarray, "bonds 2"]:
        """The bonds, each once, the smaller index first."""
        pairs = [(i, j) for i, near in enumerate(self.neighbours) for j in near if i < j]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)

    @cached_property
    def rings(self) -> list[tuple[int, ...]]:
        """The atoms of each ring, in its order: all cycles that are not sums of shorter ones.

        These are the relevant cycles: two six-rings in naphthalene, six faces of cubane, four six-rings of
        adamantane. Unlike a smallest set of rings they do not depend on the order of the atoms.

        Source: Vismara, Electron. J. Comb. 4, R9 (1997).
        """
        near = _in_cycles(self.neighbours)
        steps = {i: _steps(near, i) for i in near}
        edges = [(i, j) for i in near for j in near[i] if i < j]
        bit = {edge: 1 << k for k, edge in enumerate(edges)}
        independent = len(edges) - len(near) + len({min(reached) for reached in steps.values()})
        found: list[tuple[int, ...]] = []
        basis: dict[int, int] = {}  # of the cycles as sets of edges, by their highest edge
        for size in range(3, len(near) + 1):
            if len(basis) == independent:
                break
            new = []
            for ring in _cycles(near, steps, size):
                edge_set = sum(bit[min(edge), max(edge)] for edge in pairwise((*ring, ring[0])))
                if rest := _reduced(edge_set, basis):
                    found.append(ring)
                    new.append(rest)
            for rest in new:
                if rest := _reduced(rest, basis):
                    basis[rest.bit_length()] = rest
        return found

    @cached_property
    def aromatic(self) -> list[tuple[int, ...]]:
        """Rings that may be aromatic: planar, of six carbons with three neighbours each, none of them oxygen alone.

        Candidates only: without bond orders a planar ring with double bonds that point outwards, to other carbons,
        looks the same. Heteroaromatic rings are not among them.
        """
        return [ring for ring in carbon_rings(self) if self.flat(ring) and all(self._delocalised(i) for i in ring)]

    def flat(self, ring: Sequence[int]) -> bool:
        """Whether a ring is planar."""
        return flatness(self.pos[list(ring)]) < FLAT

    def count(self, atom: int, number: int) -> int:
        """How many neighbours of an atom have this atomic number."""
        return sum(int(self.z[j]) == number for j in self.neighbours[atom])

    def terminal(self, atom: int, number: int) -> list[int]:
        """The neighbours of an atom with this atomic number that have no other neighbour."""
        return [j for j in self.neighbours[atom] if self.z[j] == number and len(self.neighbours[j]) == 1]

    def _delocalised(self, atom: int) -> bool:
        return len(self.neighbours[atom]) == 3 and not self.terminal(atom, 8)


def bonds(molecule: Atoms | Data) -> Bonds:
    """The bonds of a molecule, from its geometry.

    Args:
        molecule: one structure of ASE, or one PyG `Data`.

    Raises:
        InputError: for crystals and other periodic systems, and several molecules at once.
    """
    if isinstance(molecule, Atoms):
        periodic, z, pos = bool(molecule.pbc.any()), molecule.numbers, molecule.positions
    else:
        periodic, z, pos = "cell" in molecule, molecule.z.cpu().numpy(), molecule.pos.detach().cpu().numpy()
        if "ptr" in molecule and len(molecule.ptr) > 2:
            raise InputError(f"bonds are of one molecule at a time, this batch has {len(molecule.ptr) - 1}")
    if periodic:
        raise InputError("bonds, rings and groups are those of molecules, and this system is periodic: cut one out")
    return Bonds(z, pos)


def flatness(ring: Float[np.ndarray, "atoms 3"]) -> float:
    """The smallest singular value of the centred positions, in Å: d of d² = Σ (distance from the best plane)².

    Args:
        ring: positions, Å.
    """
    return float(np.linalg.svd(ring - ring.mean(axis=0), compute_uv=False)[-1])


def carbon_rings(molecule: Bonds) -> list[tuple[int, ...]]:
    """The rings of six carbons.

    Args:
        molecule: its bonds.
    """
    return [ring for ring in molecule.rings if len(ring) == 6 and (molecule.z[list(ring)] == 6).all()]


def _in_cycles(neighbours: list[list[int]]) -> dict[int, list[int]]:
    """What is left of a molecule when ends of chains are cut off again and again."""
    near = {i: set(others) for i, others in enumerate(neighbours)}
    ends = [i for i, others in near.items() if len(others) < 2]
    while ends:
        atom = ends.pop()
        for other in near.pop(atom):
            near[other].discard(atom)
            if len(near[other]) == 1:
                ends.append(other)
    return {i: sorted(others) for i, others in near.items()}


def _steps(near: dict[int, list[int]], start: int) -> dict[int, int]:
    """The number of bonds from an atom to all others that can be reached."""
    steps, front = {start: 0}, [start]
    while front:
        front = [j for i in front for j in near[i] if j not in steps and steps.setdefault(j, steps[i] + 1)]
    return steps


def _cycles(near: dict[int, list[int]], steps: dict[int, dict[int, int]], size: int) -> Iterator[tuple[int, ...]]:
    """Cycles of this size, each once, of two shortest ways from their lowest atom; all relevant ones are such."""
    half = (size - 1) // 2
    for root, away in steps.items():
        ends = [i for i in near if i > root and away.get(i) == half]
        for p, q in product(ends, ends):
            if p >= q:
                continue
            if size % 2:
                tops: list[tuple[int, ...]] = [()] if q in near[p] else []
            else:
                tops = [(x,) for x in near[p] if x in near[q] and x > root and away[x] == half + 1]
            for top, one, other in product(tops, _ways(near, away, root, p), _ways(near, away, root, q)):
                if not set(one) & set(other):
                    yield (root, *one, *top, *reversed(other))


def _ways(near: dict[int, list[int]], away: dict[int, int], root: int, end: int) -> list[tuple[int, ...]]:
    """All shortest ways from the root, which is left out, to an atom, over atoms of higher index."""
    if away[end] == 1:
        return [(end,)]
    before = [i for i in near[end] if i > root and away[i] == away[end] - 1]
    return [(*way, end) for i in before for way in _ways(near, away, root, i)]


def _reduced(cycle: int, basis: dict[int, int]) -> int:
    """What remains of a set of edges after adding, modulo 2, those of a basis; 0 if it is their sum."""
    while cycle and (other := basis.get(cycle.bit_length())):
        cycle ^= other
    return cycle
