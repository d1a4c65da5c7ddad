"""Edges are complete, sorted and differentiable, whichever library finds them."""

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data

import pygschnet.graph
from pygschnet import InputError, RadiusGraph, from_atoms
from pygschnet.graph import edge_distances, edge_vectors, unique_pairs
from tests.structures import molecules

HAS_CLUSTER = pygschnet.graph.torch_cluster is not None
BACKENDS = [
    "vesin",
    pytest.param("torch_cluster", marks=pytest.mark.skipif(not HAS_CLUSTER, reason="torch-cluster is not installed")),
]


def brute_force(pos, cutoff):
    distance = torch.cdist(pos, pos, compute_mode="donot_use_mm_for_euclid_dist")
    target, source = ((distance < cutoff) & ~torch.eye(len(pos), dtype=torch.bool)).nonzero().T
    return torch.stack([source, target])


@pytest.mark.parametrize("backend", BACKENDS)
@settings(deadline=None, max_examples=30)
@given(molecule=molecules(1, 12), cutoff=st.floats(0.3, 6.0))
def test_edges_equal_brute_force(backend, molecule, cutoff):
    data = RadiusGraph(cutoff, backend)(molecule)
    assert torch.equal(data.edge_index, brute_force(molecule.pos, cutoff))
    assert data.edge_cutoff.tolist() == [cutoff]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("atoms", [60, 400])
def test_no_neighbour_is_dropped(backend, atoms):
    pos = torch.rand(atoms, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = RadiusGraph(2.0, backend)(Data(z=torch.ones(atoms, dtype=torch.long), pos=pos))
    assert data.edge_index.shape[1] == atoms * (atoms - 1)  # all are within √3


@pytest.mark.parametrize("backend", BACKENDS)
def test_neighbours_beyond_the_first_guess_of_their_number(backend):
    crowd = torch.rand(300, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pos = torch.cat([crowd, 10 + 3 * torch.arange(30.0, dtype=torch.float64)[:, None].expand(-1, 3)])
    data = RadiusGraph(1.0, backend)(Data(z=torch.ones(330, dtype=torch.long), pos=pos))
    assert torch.equal(data.edge_index, brute_force(pos, 1.0))
    assert torch.bincount(data.edge_index[1]).max() > 128


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_atoms_and_no_neighbour(backend):
    pos = 10.0 * torch.arange(200, dtype=torch.float64)[:, None].expand(-1, 3)
    assert RadiusGraph(1.0, backend)(Data(z=torch.ones(200, dtype=torch.long), pos=pos)).edge_index.shape == (2, 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_distance_equal_to_the_cutoff_is_out(backend):
    pos = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]], dtype=torch.float64)
    assert RadiusGraph(1.0, backend)(Data(z=torch.ones(3, dtype=torch.long), pos=pos)).edge_index.numel() == 0


@pytest.mark.parametrize("cutoff", [None, 1.5])
@settings(deadline=None, max_examples=10)
@given(several=st.lists(molecules(), min_size=1, max_size=5))
def test_edges_stay_inside_their_molecule(cutoff, several):
    batch = RadiusGraph(cutoff)(Batch.from_data_list(several))
    expected = [
        brute_force(one.pos, cutoff or math.inf) + first for one, first in zip(several, batch.ptr, strict=False)
    ]
    assert torch.equal(batch.edge_index, torch.cat(expected, dim=1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_dimensions(backend):
    pos = torch.rand(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = RadiusGraph(0.4, backend)(Data(z=torch.ones(20, dtype=torch.long), pos=pos))
    assert torch.equal(data.edge_index, brute_force(pos, 0.4))


@pytest.mark.parametrize(
    "atoms",
    [
        bulk("Si"),
        bulk("Cu") * (2, 1, 1),
        Atoms("HO", [[0, 0, 0], [1, 1, 9.5]], cell=[3, 4, 10], pbc=[False, True, True]),
    ],
    ids=["Si", "Cu", "slab"],
)
def test_periodic_edges_equal_a_sum_over_images(atoms):
    cutoff, data = 6.0, RadiusGraph(6.0)(from_atoms(atoms))
    reach = [range(-6, 7) if periodic else range(1) for periodic in atoms.pbc]
    expected = set()
    for shift in np.stack(np.meshgrid(*reach), -1).reshape(-1, 3):
        offset = shift @ atoms.cell.array
        for i, r_i in enumerate(atoms.positions):
            for j, r_j in enumerate(atoms.positions):
                if 0 < np.linalg.norm(r_j + offset - r_i) < cutoff:
                    expected.add((j, i, *shift))
    edges = torch.cat([data.edge_index, data.edge_shift.T]).T.tolist()
    assert {tuple(edge) for edge in edges} == expected
    assert len(edges) == len(expected)
    assert (data.edge_index[1].diff() >= 0).all()
    pairs, distances, both_ways = unique_pairs(data)
    assert both_ways and 2 * pairs.shape[1] == len(edges)
    torch.testing.assert_close(torch.cat([distances, distances]).sort()[0], edge_distances(data).sort()[0])


def test_atoms_outside_their_cell():
    """Moving an atom by a lattice vector changes shifts, but no edge vector."""
    atoms = bulk("Si")
    moved = atoms.copy()
    moved.positions[1] += 3 * atoms.cell[0] - 2 * atoms.cell[2]
    vectors = [edge_vectors(RadiusGraph(5.0)(from_atoms(one))) for one in (atoms, moved)]
    assert len(vectors[0]) == len(vectors[1])
    apart = torch.cdist(vectors[0], vectors[1], compute_mode="donot_use_mm_for_euclid_dist")
    assert apart.min(dim=1)[0].max() < 1e-12 and apart.min(dim=0)[0].max() < 1e-12


def test_edge_vectors_follow_positions_and_cell():
    data = RadiusGraph(4.0)(from_atoms(bulk("Si")))
    pos, cell = data.pos.clone().requires_grad_(), data.cell.clone().requires_grad_()

    def vectors(pos, cell):
        return edge_vectors(Data(z=data.z, pos=pos, cell=cell, edge_index=data.edge_index, edge_shift=data.edge_shift))

    assert torch.autograd.gradcheck(vectors, (pos, cell))
    assert (vectors(pos, cell).norm(dim=1) < 4.0).all()


def test_from_atoms_takes_labels_and_keeps_float64():
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-2080.123456789, forces=np.ones((3, 3)))
    data = from_atoms(atoms)
    assert data.energy.item() == -2080.123456789
    assert data.forces.shape == (3, 3) and data.pos.dtype == torch.float64
    assert "cell" not in data


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms(), "without atoms"),
        (Atoms("X", [[0, 0, 0]]), "atomic number 0 is out of range"),
        (Atoms("H", [[0, 0, math.nan]]), r"pos \(in Å\) holds 1 values that are not finite"),
    ],
)
def test_impossible_atoms(atoms, message):
    with pytest.raises(InputError, match=message):
        from_atoms(atoms)


def test_coincident_atoms():
    with pytest.raises(InputError, match="atoms 0 and 2 stand on the same spot"):
        RadiusGraph(5.0)(from_atoms(Atoms("HHH", [[0, 0, 0], [1, 0, 0], [0, 0, 0]])))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RadiusGraph(-1.0), "above 0 Å, got -1.0"),
        (lambda: RadiusGraph(None)(from_atoms(bulk("Si"))), "give a cutoff"),
        (lambda: RadiusGraph(1.0)(Data(z=torch.tensor([1]), pos=torch.zeros(2, 3))), "1 atomic numbers"),
    ],
)
def test_impossible_graphs(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_missing_torch_cluster(monkeypatch):
    monkeypatch.setattr(pygschnet.graph, "torch_cluster", None)
    data = RadiusGraph(1.2)(from_atoms(molecule("CH4")))
    assert data.edge_index.shape == (2, 8)
    with pytest.raises(InputError, match="torch-cluster is not installed"):
        RadiusGraph(1.2, "torch_cluster")
