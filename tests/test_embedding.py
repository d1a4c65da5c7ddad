"""Components of element embeddings: those of the trained elements, whatever the orientation of feature space."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from pygschnet import AtomisticModel, Atomwise, InputError, SchNet
from pygschnet.interpret.embedding import embedding_components, periodic_table, rank_correlations
from tests.structures import randomise
from tests.test_filters_of_models import Constant

QM9 = [1, 6, 7, 8, 9]


def trained_on(elements: list[int], seed: int = 0, features: int = 12) -> AtomisticModel:
    model = AtomisticModel(SchNet(features, 8, 1), Atomwise(features))
    model.head.elements[elements] = True
    return randomise(model, seed).eval()


def rows(model: AtomisticModel) -> torch.Tensor:
    return model.representation.embedding.weight.data


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 99), min_size=2, max_size=15, unique=True), st.integers(0, 2**31))
def test_components_hold_all_differences_between_elements(elements, seed):
    model = trained_on(elements, seed)
    found = embedding_components(model)
    own = rows(model)[found.elements].double().numpy()
    assert found.elements.tolist() == sorted(elements)
    np.testing.assert_allclose(pdist(found.components), pdist(own), rtol=1e-9)
    np.testing.assert_allclose(found.components @ found.directions, own - own.mean(axis=0), atol=1e-10)
    np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(len(found.directions)), atol=1e-10)
    variance = found.components.var(axis=0)
    np.testing.assert_allclose(found.explained, variance / own.var(axis=0).sum(), atol=1e-12)
    assert (np.diff(variance) <= 1e-12).all() and found.explained.sum() == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_rotations_of_feature_space_change_nothing(seed):
    model = trained_on(QM9, seed)
    before = embedding_components(model)
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(seed)).double())[0]
    model.double()
    model.representation.embedding.weight.data = rows(model) @ rotation + 3.0
    after = embedding_components(model)
    np.testing.assert_allclose(after.components, before.components, atol=1e-9)
    np.testing.assert_allclose(after.explained, before.explained, atol=1e-9)


def test_signs():
    for seed in range(20):
        model = trained_on(QM9, seed)
        found = embedding_components(model)
        assert np.corrcoef(found.components[:, 0], found.elements)[0, 1] > 0
        for column in found.components.T[1:]:
            assert column[np.abs(column).argmax()] > 0
        rows(model).neg_()
        first = embedding_components(model).components[:, 0]
        np.testing.assert_allclose(first, found.components[:, 0], atol=1e-9)


def test_rows_that_were_never_trained_do_not_count():
    model = trained_on(QM9)
    before = embedding_components(model)
    for z in (0, 2, 14, 99):
        rows(model)[z] += 100.0
    np.testing.assert_array_equal(embedding_components(model).components, before.components)
    rows(model)[8] += 1.0
    assert not np.allclose(embedding_components(model).components, before.components, atol=1e-3)


def test_embeddings_on_a_line_are_in_order():
    model, direction = trained_on([3, 6, 8, 11, 19]), torch.linspace(-1, 1, 12)
    rows(model).copy_(torch.arange(100.0).unsqueeze(1) ** 2 * -direction)
    found = embedding_components(model)
    np.testing.assert_allclose(found.explained, [1, 0, 0, 0], atol=1e-9)
    assert (np.diff(found.components[:, 0]) > 0).all()
    order = rank_correlations([model, trained_on([3, 6, 8, 11, 19], seed=1)])
    assert order.with_z[0] == pytest.approx(1) and order.with_z[1] < 1
    assert order.with_period[0] == pytest.approx(np.corrcoef([1, 2, 3, 4, 5], [2, 2, 2, 4, 5])[0, 1])
    assert order.with_group[0] == pytest.approx(np.corrcoef([1, 2, 3, 4, 5], [2, 4, 5, 2, 2])[0, 1])


def test_seeds_together():
    models = [trained_on(QM9, seed) for seed in range(4)]
    order = rank_correlations(models)
    first = [embedding_components(model).components[:, 0].argsort().argsort() for model in models]
    np.testing.assert_allclose(order.agreement, np.corrcoef(first))
    mean = np.mean(first, axis=0).argsort().argsort() if len(set(np.mean(first, axis=0))) == 5 else None
    if mean is not None:
        assert order.together[0] == pytest.approx(np.corrcoef(mean, range(5))[0, 1])
    one_period = rank_correlations([trained_on([6, 7, 8])])
    assert np.isnan(one_period.with_period).all() and np.isfinite(one_period.with_group).all()


def test_the_periodic_table():
    symbols = {1: (1, 1), 2: (1, 18), 3: (2, 1), 5: (2, 13), 9: (2, 17), 12: (3, 2), 16: (3, 16), 18: (3, 18)}
    symbols |= {19: (4, 1), 26: (4, 8), 35: (4, 17), 40: (5, 4), 54: (5, 18), 55: (6, 1), 57: (6, 3), 64: (6, 3)}
    symbols |= {71: (6, 3), 72: (6, 4), 79: (6, 11), 82: (6, 14), 86: (6, 18), 88: (7, 2), 92: (7, 3), 99: (7, 3)}
    period, group = periodic_table(np.array(list(symbols)))
    assert list(zip(period, group, strict=True)) == list(symbols.values())


def test_errors():
    with pytest.raises(InputError, match="two trained elements or more, this model has 0"):
        embedding_components(trained_on([]))
    with pytest.raises(InputError, match="has 1"):
        embedding_components(trained_on([6]))
    with pytest.raises(InputError, match="different elements"):
        rank_correlations([trained_on(QM9), trained_on([1, 6])])
    with pytest.raises(InputError, match="at least one model"):
        rank_correlations([])
    with pytest.raises(InputError, match="Constant has no embeddings"):
        embedding_components(AtomisticModel(Constant(), Atomwise(4)))
