"""GNN-LRP: fast walks against the published procedure, and what must add up."""

import itertools
import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from hypothesis import given, settings
from torch_geometric.data import Batch, Data

import pygschnet
from pygschnet import AtomisticModel, Atomwise, SchNet
from pygschnet.graph import edge_distances
from pygschnet.interpret.walks import _gate, walk_relevance
from tests.structures import bare, ethanol, graph, make_model, molecules, randomise, rotations


def small_model(interactions: int = 2, cutoff: float = 2.0, biases: bool = True) -> AtomisticModel:
    """In which not all atoms of a molecule see each other."""
    schnet = SchNet(8, 6, interactions, gaussians=8, gaussian_stop=3.0, gamma=None, cutoff=cutoff, cutoff_form="cosine")
    model = randomise(AtomisticModel(schnet, Atomwise(8, scale=3.0, shift=0.7, references={"H": -13.6, "C": -1029.0})))
    if not biases:
        for module in (*schnet.blocks.modules(), *model.head.modules()):  # those of filter networks may stay
            if isinstance(module, torch.nn.Linear) and module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    return model.double().eval()


def net_energy(model: AtomisticModel, data: Data) -> float:
    constants = model.head.mu + model.head.reference_energies[data.z]
    return float(model(data, forces=False).energy.detach().sum() - constants.sum())


def frozen(y):
    """ssp(y) as y times a constant."""
    factor = torch.where(y == 0, 0.5, (torch.logaddexp(y, torch.zeros(())) - math.log(2)) / y)
    return y * factor.detach()


def published(model: AtomisticModel, data: Data, walk: tuple[int, ...] | None) -> tuple[torch.Tensor, torch.Tensor]:
    """x⁰ and the energy of the network with constant activations; gradients pass through the walk's atoms only."""
    schnet, edges = model.representation, data.edge_index

    def only(x, step):
        if walk is None:
            return x
        mask = torch.zeros(len(x), 1, dtype=x.dtype)
        mask[walk[step]] = 1
        return mask * x + (1 - mask) * x.detach()

    x0 = schnet.embedding(data.z).detach().requires_grad_()
    x = only(x0, 0)
    for step, (block, filters) in enumerate(zip(schnet.blocks, schnet.filters_at(edge_distances(data)), strict=True)):
        h = block.in2f(x)
        c = torch.zeros(len(x), h.shape[1], dtype=x.dtype)
        c = c.index_add(0, edges[1], h[edges[0]] * filters.detach())
        x = only(x + block.dense(frozen(block.f2out(c))), step + 1)
    return x0, model.head.sigma * model.head.dense_2(frozen(model.head.dense_1(x))).sum()


def brute_force(model: AtomisticModel, data: Data, walk: tuple[int, ...] | None) -> float:
    """⟨x⁰, ∂E/∂x⁰⟩ along a walk, or along all."""
    x0, energy = published(model, data, walk)
    (gradient,) = torch.autograd.grad(energy, x0)
    return float((x0.detach() * gradient).sum())


def by_walk(found) -> dict[tuple[int, ...], float]:
    table = dict(zip(map(tuple, found.walks.tolist()), found.relevance.tolist(), strict=True))
    assert len(table) == len(found.walks)
    return table


@pytest.mark.parametrize("interactions", [1, 3])
def test_equal_to_the_published_procedure(interactions):
    model = small_model(interactions)
    data = graph(Atoms("COH2", [[0, 0, 0], [1.3, 0.1, 0], [1.8, 1.0, 0.2], [-0.6, -0.9, 0.1]]), model)
    found = by_walk(walk_relevance(model, data))
    edges = {*map(tuple, data.edge_index.T.tolist()), *((i, i) for i in range(4))}
    assert 4 < len(edges) < 16
    for walk in itertools.product(range(4), repeat=interactions + 1):
        expected = brute_force(model, data, walk)
        possible = all(step in edges for step in itertools.pairwise(walk))
        assert (walk in found) == possible
        assert found.get(walk, 0.0) == pytest.approx(expected, rel=1e-10, abs=1e-12)
    assert max(map(abs, found.values())) > 1e-2


@pytest.mark.parametrize("name", ["short", "paper"])
def test_walks_and_biases_add_up_to_the_energy(name):
    model = make_model(name)
    data = graph(ethanol(), model)
    found = walk_relevance(model, data)
    assert found.energy == pytest.approx(net_energy(model, data), rel=1e-10)
    assert found.relevance.sum() + found.bias == pytest.approx(found.energy, rel=1e-10)
    energy = published(model, data, None)[1]
    assert float(energy.detach()) == pytest.approx(found.energy, rel=1e-10)
    assert found.relevance.sum() == pytest.approx(brute_force(model, data, None), rel=1e-10)
    assert abs(found.bias) > 1e-2 * abs(found.energy)


@settings(max_examples=15, deadline=None)
@given(data=molecules())
def test_without_biases_walks_are_the_energy(data):
    model = small_model(biases=False)
    data = bare(data.z, data.pos, model)
    found = walk_relevance(model, data)
    assert found.bias == 0
    assert found.relevance.sum() == pytest.approx(net_energy(model, data), rel=1e-10, abs=1e-10)


@settings(max_examples=10, deadline=None)
@given(data=molecules(2), rotation=rotations())
def test_rotation_and_permutation(data, rotation):
    model = small_model()
    found = walk_relevance(model, bare(data.z, data.pos, model))
    rotated = walk_relevance(model, bare(data.z, data.pos @ rotation.T + 1.5, model))
    assert by_walk(rotated) == pytest.approx(by_walk(found), rel=1e-8, abs=1e-10)
    order = np.random.default_rng(0).permutation(len(data.z))
    permuted = walk_relevance(model, bare(data.z[order], data.pos[order], model))
    renamed = {tuple(order[list(walk)].tolist()): share for walk, share in by_walk(permuted).items()}
    assert renamed == pytest.approx(by_walk(found), rel=1e-8, abs=1e-10)
    assert permuted.bias == pytest.approx(found.bias, rel=1e-10)


def test_order_of_edges_is_irrelevant():
    model = small_model()
    data = graph(ethanol(), model)
    found = walk_relevance(model, data)
    data.edge_index = data.edge_index[:, torch.randperm(data.edge_index.shape[1])]
    assert by_walk(walk_relevance(model, data)) == pytest.approx(by_walk(found), rel=1e-10, abs=1e-12)


def test_no_walk_between_fragments():
    model = small_model()
    water, methane = molecule("H2O"), molecule("CH4")
    alone = [walk_relevance(model, fragment) for fragment in (water, methane)]
    methane.positions += 20.0
    both = walk_relevance(model, water + methane)
    expected = by_walk(alone[0]) | {tuple(i + 3 for i in walk): r for walk, r in by_walk(alone[1]).items()}
    assert by_walk(both) == pytest.approx(expected, rel=1e-8, abs=1e-10)
    assert both.within(range(3)) == pytest.approx(alone[0].relevance.sum(), rel=1e-8)


def test_an_atom_walks_nowhere():
    model = small_model(3)
    found = walk_relevance(model, Atoms("C"))
    assert found.walks.tolist() == [[0, 0, 0, 0]]
    x0 = model.representation.embedding(torch.tensor([6]))[0]
    with torch.no_grad():
        x = x0
        for block in model.representation.blocks:
            x = x + block.dense(frozen(block.f2out.bias))
        y = model.head.dense_1(x)
        slope = model.head.dense_1.weight.T @ (model.head.dense_2.weight[0] * frozen(y) / y)
        expected = float(model.head.sigma * x0 @ slope)
    assert found.relevance[0] == pytest.approx(expected, rel=1e-10)
    assert found.relevance[0] + found.bias == pytest.approx(found.energy, rel=1e-10)


def test_sums_over_groups():
    found = walk_relevance(small_model(3), ethanol())
    table = by_walk(found)
    assert found.of_atoms() == pytest.approx([sum(r for w, r in table.items() if w[0] == i) for i in range(9)])
    orders = [sum(r for w, r in table.items() if len(set(w)) == k) for k in (1, 2, 3, 4)]
    assert found.of_orders() == pytest.approx(orders)
    group = {0, 1, 4}
    assert found.within([4, 0, 1]) == pytest.approx(sum(r for w, r in table.items() if set(w) <= group))
    pairs = np.array([[sum(r for w, r in table.items() if set(w) == {i, j}) for j in range(9)] for i in range(9)])
    assert found.of_pairs() == pytest.approx(pairs)
    assert np.triu(found.of_pairs()).sum() == pytest.approx(sum(orders[:2]))


def test_activation_near_zero():
    """The factor ssp(y)/y is smooth where the formula is 0/0."""
    y = torch.tensor([0.0, 1e-300, -1e-12, 1e-9, -1e-5, 1e-2], dtype=torch.float64)
    assert torch.allclose(_gate(y), 0.5 + y / 8 - y**3 / 192 + y**5 / 2880, rtol=1e-14)
    far = torch.tensor([-1e4, -3.0, 4.0, 1e4], dtype=torch.float64)
    assert torch.allclose(_gate(far) * far, torch.logaddexp(far, torch.zeros(())) - math.log(2), rtol=1e-14)


def test_a_float32_model_is_taken_in_float64():
    model = randomise(AtomisticModel(SchNet(16, 12, 2, cutoff=3.0, cutoff_form="cosine"), Atomwise(16)))
    found = walk_relevance(model, ethanol())
    assert found.relevance.dtype == np.float64
    assert next(model.parameters()).dtype == torch.float32
    assert found.relevance.sum() + found.bias == pytest.approx(found.energy, rel=1e-12)


def test_refusals():
    model = small_model()
    with pytest.raises(pygschnet.InputError, match=r"729 walks of 2 steps among 9 atoms are more than max_walks = 700"):
        walk_relevance(small_model(cutoff=30.0), ethanol(), max_walks=700)
    assert len(walk_relevance(small_model(cutoff=30.0), ethanol(), max_walks=729).walks) == 729
    with pytest.raises(pygschnet.InputError, match="of one molecule, and there are 2"):
        walk_relevance(model, Batch.from_data_list([graph(ethanol(), model)] * 2))
    with pytest.raises(pygschnet.InputError, match="periodic"):
        walk_relevance(model, Atoms("C", cell=np.eye(3) * 3.0, pbc=True))
    silu = AtomisticModel(SchNet(8, 6, 1), Atomwise(8, activation="silu"))
    with pytest.raises(pygschnet.InputError, match="with another activation"):
        walk_relevance(silu, ethanol())
