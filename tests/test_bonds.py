"""Bonds, rings, environments and groups from geometry: of molecules whose chemistry is known."""

from itertools import combinations

import networkx as nx
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.collections import g2
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch

import pygschnet
from pygschnet import InputError
from pygschnet.interpret.bonds import Bonds, bonds, carbon_rings, flatness
from pygschnet.interpret.groups import environments, groups
from tests.structures import SHARED, rotations

VALENCE = {1: 1, 6: 4, 7: 4, 8: 2, 9: 1}
ORGANIC = [  # F2, and H2 need no noise to be close to breaking
    name
    for name in g2.names
    if {6} < set(molecule(name).numbers.tolist()) <= VALENCE.keys()
    and not molecule(name).get_initial_magnetic_moments().any()
]


def hexagon(x: float, y: float, radius: float = 1.40) -> np.ndarray:
    angles = np.arange(6) * np.pi / 3 + np.pi / 6
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles), np.zeros(6)], axis=1)


def fused(*centres: tuple[float, float]) -> Atoms:
    """Hexagons side by side, with hydrogens on the carbons that have two neighbours."""
    points = np.unique(np.round(np.concatenate([hexagon(*centre) for centre in centres]), 6), axis=0)
    atoms = Atoms(f"C{len(points)}", points)
    for i, near in enumerate(bonds(atoms).neighbours):
        if len(near) == 2:
            out = 2 * points[i] - points[near].sum(axis=0)
            atoms.append("H")
            atoms.positions[-1] = points[i] + 1.09 * out / np.linalg.norm(out)
    return atoms


def chair() -> Atoms:
    angles = np.arange(6) * np.pi / 3
    up = (-1.0) ** np.arange(6)
    out = np.stack([np.cos(angles), np.sin(angles), np.zeros(6)], axis=1)
    carbon = 1.446 * out + 0.25 * up[:, None] * [0, 0, 1]
    axial, equatorial = carbon + 1.09 * up[:, None] * [0, 0, 1], carbon + 1.03 * out - 0.36 * up[:, None] * [0, 0, 1]
    return Atoms("C6H12", np.concatenate([carbon, axial, equatorial]))


def cubane() -> Atoms:
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, -1).T
    return Atoms("C8H8", np.concatenate([0.785 * corners, 1.415 * corners]))


def adamantane() -> Atoms:
    signs = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    axes = np.concatenate([np.eye(3), -np.eye(3)])
    return Atoms("C10", np.concatenate([0.89 * signs, 1.78 * axes]))


def norbornane() -> Atoms:
    sides = [[0.78, 1.24, -0.5], [-0.78, 1.24, -0.5], [-0.78, -1.24, -0.5], [0.78, -1.24, -0.5]]
    return Atoms("C7", [[1.13, 0, 0.32], [-1.13, 0, 0.32], [0, 0, 1.20], *sides])


def bicyclooctane() -> Atoms:
    sides = [[1.44 * np.cos(a), 1.44 * np.sin(a), z] for a in np.arange(3) * 2 * np.pi / 3 for z in (0.78, -0.78)]
    return Atoms("C8", [[0, 0, 1.29], [0, 0, -1.29], *sides])


NAPHTHALENE = fused((0, 0), (1.4 * np.sqrt(3), 0))
PYRENE = fused((0, 0), (1.4 * np.sqrt(3), 0), (0.7 * np.sqrt(3), 2.1), (0.7 * np.sqrt(3), -2.1))

RINGS = {
    "benzene": (molecule("C6H6"), [6]),
    "naphthalene": (NAPHTHALENE, [6, 6]),
    "pyrene": (PYRENE, [6, 6, 6, 6]),
    "cyclohexane": (chair(), [6]),
    "cubane": (cubane(), [4] * 6),
    "adamantane": (adamantane(), [6] * 4),
    "norbornane": (norbornane(), [5, 5]),
    "bicyclo[2.2.2]octane": (bicyclooctane(), [6, 6, 6]),
    "fullerene": (molecule("C60"), [5] * 12 + [6] * 20),
    "bicyclobutane": (molecule("bicyclobutane"), [3, 3]),
    "spiropentane": (molecule("C5H8"), [3, 3]),
    "ethanol": (molecule("CH3CH2OH"), []),
    "ethene": (molecule("C2H4"), []),
    "water": (molecule("H2O"), []),
    "atom": (Atoms("C"), []),
}


@pytest.mark.parametrize("name", RINGS)
def test_rings(name):
    atoms, sizes = RINGS[name]
    found = bonds(atoms)
    assert sorted(len(ring) for ring in found.rings) == sizes
    for ring in found.rings:
        assert len(set(ring)) == len(ring)
        assert all(b in found.neighbours[a] for a, b in zip(ring, (*ring[1:], ring[0]), strict=True))


def test_rings_do_not_depend_on_the_order_of_atoms():
    for atoms, _ in RINGS.values():
        order = np.random.default_rng(0).permutation(len(atoms))
        before = {frozenset(ring) for ring in bonds(atoms).rings}
        assert {frozenset(order[list(ring)].tolist()) for ring in bonds(atoms[order]).rings} == before


def relevant_cycles(graph: nx.Graph) -> set[frozenset]:
    """By definition: all cycles, less those that are sums, modulo 2, of shorter ones."""
    edges = {frozenset(edge): k for k, edge in enumerate(graph.edges)}
    cycles = []
    for cycle in nx.simple_cycles(graph):
        row = np.zeros(len(edges), dtype=int)
        row[[edges[frozenset(pair)] for pair in zip(cycle, [*cycle[1:], cycle[0]], strict=True)]] = 1
        cycles.append(row)
    shorter = {size: [row for row in cycles if row.sum() < size] for size in {row.sum() for row in cycles}}
    known = {size: rank(rows) for size, rows in shorter.items()}
    return {frozenset(np.flatnonzero(c)) for c in cycles if rank([*shorter[c.sum()], c]) > known[c.sum()]}


def rank(rows: list[np.ndarray]) -> int:
    rows, count = [row.copy() for row in rows], 0
    while rows:
        if (pivot := rows.pop()).any():
            count += 1
            first = pivot.argmax()
            rows = [(row + pivot) % 2 if row[first] else row for row in rows]
    return count


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 7), st.integers(0, 2**32 - 1))
def test_rings_are_the_relevant_cycles(count, seed):
    rng = np.random.default_rng(seed)
    pairs = [pair for pair in combinations(range(count), 2) if rng.random() < 0.45]
    graph = nx.Graph(pairs)
    found = Bonds(np.full(count, 6), np.arange(3.0 * count).reshape(-1, 3))
    found.neighbours = [sorted(graph[i]) if i in graph else [] for i in range(count)]
    numbers = {frozenset(edge): k for k, edge in enumerate(graph.edges)}
    rings = [
        frozenset(numbers[frozenset(pair)] for pair in zip(ring, (*ring[1:], ring[0]), strict=True))
        for ring in found.rings
    ]
    assert len(set(rings)) == len(rings)
    assert set(rings) == relevant_cycles(graph)


def test_planar_and_aromatic():
    assert flatness(chair().positions[:6]) == pytest.approx(0.25 * np.sqrt(6))
    assert len(carbon_rings(bonds(chair()))) == 1 and not bonds(chair()).aromatic
    assert [len(bonds(RINGS[name][0]).aromatic) for name in ("benzene", "naphthalene", "pyrene")] == [1, 2, 4]
    assert not bonds(molecule("C5H5N")).aromatic and not carbon_rings(bonds(molecule("C5H5N")))
    flat_chair = chair()
    flat_chair.positions[:, 2] -= 0.25 * np.tile([1, -1], 9)
    ring = carbon_rings(bonds(flat_chair))[0]
    assert bonds(flat_chair).flat(ring) and not bonds(flat_chair).aromatic  # planar, of saturated carbons
    bent = molecule("C6H6")
    bent.positions[:, 2] += 0.2 * np.tile([1, -1], 6)
    assert len(carbon_rings(bonds(bent))) == 1 and not bonds(bent).aromatic
    quinone = molecule("C6H6")
    quinone.numbers[[6, 9]] = 8  # two hydrogens opposite each other, as oxygens alone
    for carbon, oxygen in ((0, 6), (3, 9)):
        quinone.set_distance(carbon, oxygen, 1.22, fix=0)
    assert len(carbon_rings(bonds(quinone))) == 1 and not bonds(quinone).aromatic


@pytest.mark.parametrize("name", ORGANIC)
def test_valences_of_known_molecules(name):
    found = bonds(molecule(name))
    assert all(1 <= len(near) <= VALENCE[z] for z, near in zip(found.z, found.neighbours, strict=True))
    assert nx.is_connected(nx.Graph(found.pairs.tolist()))
    for i, j in found.pairs:
        assert i < j and i in found.neighbours[j] and j in found.neighbours[i]


ENVIRONMENTS = {
    "CH3CH2OH": "C sp3, CH2|C sp3, CH3|H on C sp3|H on O|OH",
    "CH3COOH": "C sp3, CH3|C=O|H on C sp3|H on O|O=C|OH",
    "CH3CHO": "C sp3, CH3|CH=O|H on C sp2|H on C sp3|O=C",
    "CH3CN": "C sp3, CH3|C≡N|H on C sp3|N≡C",
    "CH3CONH2": "C sp3, CH3|C=O|H on C sp3|H on N|NH2|O=C",
    "C3H9N": "C sp3, CH3|H on C sp3|tertiary N",
    "CH3NO2": "C sp3, CH3|H on C sp3|NO2|O on N",
    "CH3OCH3": "C sp3, CH3|H on C sp3|ether O",
    "CH3ONO": "=N–|C sp3, CH3|H on C sp3|O on CN|O on N",
    "C5H5N": "=N–, in ring|C sp2, CH, in ring|H on C sp2",
    "C4H4NH": "C sp2, CH, in ring|H on C sp2|H on N|NH, in ring",
    "CH2OCH2": "C sp3, CH2, in ring|H on C sp3|ether O, in ring",
    "C2H2": "C sp, CH|H on C sp",
    "C6H6": "C in aromatic ring|H on aromatic C",
    "CH3O": "C sp3, CH3|H on C sp3|O on C",
    "H2O": "H on O|OH2",
    "H2": "H on H",
    "C": "C alone",
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environments(name):
    assert "|".join(sorted(set(environments(bonds(molecule(name)))))) == ENVIRONMENTS[name]


GROUPS = {
    "CH3CH2OH": {"methyl CH3": 1, "methylene CH2": 1, "hydroxyl OH": 1},
    "CH3COOH": {"carboxyl COOH": 1, "methyl CH3": 1},
    "CH3CHO": {"aldehyde CHO": 1, "methyl CH3": 1},
    "CH3COCH3": {"carbonyl CO": 1, "methyl CH3": 2},
    "CH3CONH2": {"carbonyl CO": 1, "amine NH2": 1, "methyl CH3": 1},
    "HCOOCH3": {"aldehyde CHO": 1, "ether O": 1, "methyl CH3": 1},
    "CH3CN": {"nitrile CN": 1, "methyl CH3": 1},
    "NCCN": {"nitrile CN": 2},
    "CH3NO2": {"nitro NO2": 1, "methyl CH3": 1},
    "C2H6NH": {"amine NH": 1, "methyl CH3": 2},
    "isobutane": {"methine CH": 1, "methyl CH3": 3},
    "isobutene": {"sp2 CH2": 1, "sp2 C": 1, "methyl CH3": 2},
    "C6H6": {"ring C6H6": 1},
    "methylenecyclopropane": {"ring C3H4": 1, "sp2 CH2": 1},
    "bicyclobutane": {"ring C4H6": 1},
    "CO2": {"carbonyl CO": 1},
    "NH3": {"ammonia NH3": 1},
    "H2O": {"H2O": 1},
    "H2": {"H2": 1},
    "HCl": {"HCl": 1},
}


@pytest.mark.parametrize("name", GROUPS)
def test_groups(name):
    found = groups(bonds(molecule(name)))
    assert {key: len(atoms) for key, atoms in found.items()} == GROUPS[name]


def test_rings_that_share_atoms_are_one_group():
    assert {name: len(atoms) for name, atoms in groups(bonds(NAPHTHALENE)).items()} == {"ring C10H8": 1}


@pytest.mark.parametrize("name", g2.names)
def test_every_atom_is_in_one_group(name):
    found = groups(bonds(molecule(name)))
    assert sorted(i for named in found.values() for group in named for i in group) == list(range(len(molecule(name))))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ORGANIC), rotations(), st.integers(0, 2**32 - 1))
def test_names_do_not_depend_on_orientation_order_or_noise(name, rotation, seed):
    rng, atoms = np.random.default_rng(seed), molecule(name)
    order = rng.permutation(len(atoms))
    step = rng.normal(size=(len(atoms), 3))
    moved = atoms.positions @ rotation.numpy() + 0.03 * step / np.linalg.norm(step, axis=1, keepdims=True)
    before, after = bonds(atoms), bonds(Atoms(atoms.numbers[order], moved[order]))
    assert environments(after) == [environments(before)[i] for i in order]
    renamed = {key: {frozenset(order[list(g)].tolist()) for g in named} for key, named in groups(after).items()}
    assert renamed == {key: {frozenset(group) for group in named} for key, named in groups(before).items()}


@pytest.mark.skipif(not SHARED.exists(), reason="the reference data are not beside this checkout")
def test_molecules_of_qm9():
    with np.load(SHARED / "qm9_eel/qm9_eel_dipole.npz") as file:
        last = np.cumsum(file["n_atoms"].astype(int))
        z, pos = file["Z"].astype(int), file["R"]
    for m in range(5000, len(last), 800):
        found = bonds(Atoms(z[last[m - 1] : last[m]], pos[last[m - 1] : last[m]]))
        assert all(1 <= len(near) <= VALENCE[k] for k, near in zip(found.z, found.neighbours, strict=True))
        atoms = [i for named in groups(found).values() for group in named for i in group]
        assert sorted(atoms) == list(range(len(found.z)))
        basis = nx.minimum_cycle_basis(nx.Graph(found.pairs.tolist()))
        sizes = [len(ring) for ring in found.rings]
        assert set(sizes) == {len(ring) for ring in basis} and len(sizes) >= len(basis)


def test_crystals_and_batches_are_refused():
    for crystal in (bulk("C"), pygschnet.from_atoms(bulk("C"))):
        with pytest.raises(InputError, match="this system is periodic"):
            bonds(crystal)
    water = pygschnet.from_atoms(molecule("H2O"))
    with pytest.raises(InputError, match="one molecule at a time, this batch has 2"):
        bonds(Batch.from_data_list([water, water]))
