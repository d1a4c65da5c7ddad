"""Atom-wise contributions: they are the whole energy, belong to their atoms, and their statistics are theirs."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch_geometric.data import Batch

import pygschnet
from pygschnet import AtomisticModel, Atomwise, InputError, SchNet
from pygschnet.interpret.bonds import bonds
from pygschnet.interpret.contributions import compare, contributions, group_sums, rank_correlation
from pygschnet.interpret.groups import environments, groups
from pygschnet.interpret.statistics import environment_statistics, ring_stability
from pygschnet.nn import shifted_softplus
from tests.structures import MODELS, batch_of, ethanol, graph, make_model, molecules, randomise, rotations, steep_model

E0 = {"H": -13.6, "C": -1029.9, "N": -1485.3, "O": -2042.6}


def model_with(aggregation: str, references: dict | None, seed: int = 0) -> AtomisticModel:
    schnet = SchNet(16, 12, 2, gaussians=20, gaussian_stop=4.0, gamma=None, cutoff=4.0, cutoff_form="cosine")
    head = Atomwise(16, aggregation=aggregation, scale=2.5, shift=-3.0, references=references)
    return randomise(AtomisticModel(schnet, head), seed).double().eval()


@pytest.mark.parametrize("name", [name for name in MODELS if name != "zeros"])
def test_contributions_are_the_whole_energy(name):
    model = make_model(name)
    found = contributions(model, ethanol())
    assert abs(found.missing) < 1e-10
    assert found.energy == pytest.approx(model(graph(ethanol(), model), forces=False).energy.item(), abs=1e-12)
    assert found.total.sum() == pytest.approx(found.energy, abs=1e-10)
    assert (np.ptp(found.network) > 1e-3) == (name != "enn_s2s")  # the atoms differ, unless they share one energy


@pytest.mark.parametrize("aggregation", ["sum", "mean"])
def test_parts_are_what_the_head_computes(aggregation):
    model = model_with(aggregation, E0)
    data, share = graph(ethanol(), model), 1 if aggregation == "sum" else 9
    with torch.no_grad():
        output = model.head.dense_2(shifted_softplus(model.head.dense_1(model.representation(data)))).squeeze(-1)
    found = contributions(model, data)
    np.testing.assert_allclose(found.network, (2.5 * output.numpy() - 3.0) / share, atol=1e-11)
    e0 = [{1: E0["H"], 6: E0["C"], 8: E0["O"]}[z] / share for z in ethanol().numbers]
    np.testing.assert_allclose(found.references, e0, rtol=1e-14)
    assert abs(found.missing) < 1e-10 and found.z.tolist() == ethanol().numbers.tolist()


@pytest.mark.parametrize("aggregation", ["sum", "mean"])
def test_removing_references_leaves_the_network(aggregation):
    with_e0, without = (contributions(model_with(aggregation, e0), ethanol()) for e0 in (E0, None))
    np.testing.assert_allclose(with_e0.network, without.network, atol=1e-10)
    assert with_e0.energy - without.energy == pytest.approx(with_e0.references.sum(), abs=1e-9)
    assert not without.references.any()


@settings(max_examples=25, deadline=None)
@given(molecules(low=2), rotations(), st.randoms(use_true_random=False))
def test_they_go_with_their_atoms_and_do_not_turn(data, rotation, random):
    model = model_with("sum", E0)
    order = random.sample(range(len(data.z)), len(data.z))
    atoms = Atoms(data.z.numpy(), data.pos.numpy())
    moved = Atoms(data.z[order].numpy(), (data.pos[order] @ rotation).numpy() + 1.0)
    np.testing.assert_allclose(
        contributions(model, moved).network, contributions(model, atoms).network[order], atol=1e-10
    )


@pytest.mark.parametrize("name", ["CH3CH2OH", "C6H6", "CH3CONH2", "C5H5N"])
def test_sums_of_groups_add_up_to_the_energy(name):
    found = contributions(model_with("sum", E0), molecule(name))
    sums = group_sums(found.total, groups(bonds(molecule(name))))
    assert sum(each.sum() for each in sums.values()) == pytest.approx(found.energy, abs=1e-9)
    if name == "CH3CH2OH":
        assert sums["hydroxyl OH"] == pytest.approx(found.total[[2, 3]].sum(), abs=1e-10)


def test_several_seeds():
    models = [model_with("sum", E0, seed) for seed in range(3)]
    each = np.stack([contributions(model, ethanol()).network for model in models])
    found = compare(models, ethanol())
    np.testing.assert_allclose(found.mean, each.sum(0) / 3)
    np.testing.assert_allclose(found.spread, np.sqrt(((each - found.mean) ** 2).sum(0) / 2))
    np.testing.assert_allclose(found.rank_correlation, spearmanr(each, axis=1).statistic, atol=1e-12)


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=3, max_size=12))
def test_rank_correlation_is_that_of_scipy(rows):
    values = np.array(rows, dtype=float).T
    found = rank_correlation(values)
    for i in range(3):
        for j in range(3):
            if np.ptp(values[i]) and np.ptp(values[j]):
                assert found[i, j] == pytest.approx(spearmanr(values[i], values[j]).statistic, abs=1e-12)
            else:
                assert np.isnan(found[i, j])


def test_errors():
    model = model_with("sum", E0)
    pair = batch_of([pygschnet.from_atoms(ethanol()), pygschnet.from_atoms(molecule("H2O"))], model)
    with pytest.raises(InputError, match="one molecule at a time, this batch has 2"):
        contributions(model, pair)
    with pytest.raises(InputError, match="two or more, got 1"):
        compare([model], ethanol())
    with pytest.raises(InputError, match="atoms 7 to 9, the molecule has 9"):
        group_sums(np.zeros(9), {"ring": [(7, 9)]})
    with pytest.raises(InputError, match="at least one molecule"):
        environment_statistics(model, [])
    with pytest.raises(InputError, match="at least one bin, got 0"):
        environment_statistics(model, [ethanol()], bins=0)
    with pytest.raises(InputError, match="periodic"):
        environment_statistics(model, [bulk("Si")])
    with pytest.raises(InputError, match="at least one model"):
        ring_stability([], [ethanol()])


NAMES = ["CH3CH2OH", "C6H6", "CH3COOH", "CH4", "C5H5N", "H2O", "HCN", "C3H9N"]


def test_statistics_are_those_of_the_contributions():
    model, structures = steep_model(), [molecule(name) for name in NAMES]
    found = environment_statistics(model, structures, bins=7)
    assert len(set(found.names)) == len(found.names)
    each = [contributions(model, atoms) for atoms in structures]
    value, z = np.concatenate([one.network for one in each]), np.concatenate([one.z for one in each])
    kind = np.array([name for atoms in structures for name in environments(bonds(atoms))])
    assert found.atoms.sum() == 2 * len(value)  # by element, and by environment
    for row, name in enumerate(found.names):
        own = value[z == found.z[row]] if name in ("H", "C", "N", "O") else value[kind == name]
        assert len(own) == found.atoms[row] == found.histogram[row].sum()
        expected = [own.mean(), own.std(), own.min(), own.max()]
        numbers = [found.mean[row], found.deviation[row], found.lowest[row], found.highest[row]]
        np.testing.assert_allclose(numbers, expected, atol=1e-6)
        assert found.edges[row][0] <= found.lowest[row] and found.highest[row] <= found.edges[row][-1]


def test_batches_give_what_molecules_give():
    model = steep_model()
    data = [pygschnet.from_atoms(molecule(name)) for name in NAMES]
    one_by_one = environment_statistics(model, iter(data))
    with_edges = environment_statistics(model, [batch_of(data[:3], model), Batch.from_data_list(data[3:])])
    assert one_by_one.names == with_edges.names
    for a, b in zip(one_by_one[1:], with_edges[1:], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)


def test_rings_in_their_order():
    models = [steep_model(), model_with("sum", E0)]
    chair = Atoms(
        "C6", [[1.446 * np.cos(a), 1.446 * np.sin(a), (-1) ** k / 4] for k, a in enumerate(np.arange(6) * np.pi / 3)]
    )
    structures = [ethanol(), molecule("C6H6"), chair, molecule("C5H5N"), molecule("C6H6")]
    structures[-1].positions *= 1.05
    structures[-1] = structures[-1][::-1]  # hydrogens first
    found = ring_stability(models, structures)
    assert sorted(found.molecule) == [1, 2, 4]  # pyridine's ring is not all carbon
    assert (np.diff(found.energy.mean(axis=0)) >= 0).all()
    for row, number in enumerate(found.molecule):
        assert set(structures[number].numbers[found.atoms[row]]) == {6}
        assert found.planar[row] == (number != 2)
        assert found.flatness[row] == pytest.approx(0.25 * np.sqrt(6) if number == 2 else 0, abs=1e-3)
        for model, energy in zip(models, found.energy[:, row], strict=True):
            expected = contributions(model, structures[number]).network[found.atoms[row]].sum()
            assert energy == pytest.approx(expected, abs=1e-10)
    np.testing.assert_allclose(found.rank_correlation[0, 1], spearmanr(*found.energy).statistic)
    assert ring_stability(models, [ethanol()]).energy.shape == (2, 0)
