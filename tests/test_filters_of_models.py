"""Filters as curves and cuts, against a filter network written out in numpy."""

import copy

import numpy as np
import pytest
import torch

from pygschnet import AtomisticModel, Atomwise, InputError, SchNet
from pygschnet.interpret.filters import filter_curves, filter_cuts
from pygschnet.representations import Representation
from tests.structures import make_model, randomise

LN2 = np.log(2.0)


class Constant(Representation):
    """A representation without filters or embeddings."""

    features, cutoff = 4, None

    def forward(self, data):
        return torch.ones(len(data.z), 4)


def small_model(final: bool, form: str = "cosine", scale: float = 1.0) -> AtomisticModel:
    schnet = SchNet(
        8, 6, 2, 15, gaussian_stop=4.0, gamma=None, cutoff=4.0, cutoff_form=form, filter_final_activation=final
    )
    model = randomise(AtomisticModel(schnet, Atomwise(8)))
    with torch.no_grad():
        for network in schnet.filter_networks:
            network.dense_2.weight.mul_(scale)
    return model


def by_hand(model: AtomisticModel, distances: np.ndarray) -> np.ndarray:
    """ssp(W₂ ssp(W₁ e(d) + b₁) + b₂) f(d), where e has a Gaussian every 4/14 Å, as wide as they are apart."""
    schnet, filters = model.representation, []
    gaussians = np.exp(-((distances[:, None] - np.arange(15) * 4 / 14) ** 2) / (2 * (4 / 14) ** 2))
    for network in schnet.filter_networks:
        w1, b1, w2, b2 = (p.detach().double().numpy() for p in network.parameters())
        value = np.log(0.5 * np.exp(gaussians @ w1.T + b1) + 0.5) @ w2.T + b2
        filters.append(np.log(0.5 * np.exp(value) + 0.5) if schnet.filter_final_activation else value)
    cosine = 0.5 * (np.cos(np.pi * distances / 4) + 1) if schnet.cutoff_form == "cosine" else 1.0
    return np.stack(filters) * (cosine * (distances < 4))[None, :, None]


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("form", ["cosine", "hard"])
def test_curves_are_those_of_the_filter_network(final, form):
    model, distances = small_model(final, form), np.linspace(0, 6, 200)
    found = filter_curves(model, distances)
    np.testing.assert_allclose(found, by_hand(model, distances), atol=2e-6)  # the centres are of float32
    assert found.shape == (2, 200, 6) and found.dtype == np.float64
    assert not found[:, distances >= 4].any() and np.abs(found[:, distances < 3]).max() > 0.1


def test_evaluation_is_exact_and_leaves_the_model_alone():
    """A model in float32 gives what its copy in float64 gives, and stays in float32."""
    model, distances = small_model(True), np.linspace(0, 4, 50)
    before = copy.deepcopy(model.state_dict())
    found = filter_curves(model, distances)
    np.testing.assert_array_equal(found, filter_curves(copy.deepcopy(model).double(), distances))
    after = model.state_dict()
    assert all(after[name].dtype == before[name].dtype and torch.equal(after[name], before[name]) for name in before)
    assert model.representation.basis.centres.dtype == torch.float32


@pytest.mark.parametrize("points", [2, 10, 11])
def test_cuts_have_the_symmetry_of_a_square(points):
    found = filter_cuts(small_model(False), extent=9.0, points=points)
    cuts, x = found.cuts, found.x
    assert cuts.shape == (2, 6, points, points) and x[-1] == -x[0] == 4.5
    for turned in (cuts[..., ::-1, :], cuts[..., ::-1], cuts.transpose(0, 1, 3, 2)):
        np.testing.assert_allclose(cuts, turned, rtol=0, atol=1e-15)
    for row, column in ((0, 0), (0, points // 2), (points - 1, 1)):
        distance = np.array([np.sqrt(x[row] ** 2 + x[column] ** 2)])
        expected = by_hand(small_model(False), distance)[:, 0]
        np.testing.assert_allclose(cuts[:, :, row, column], expected, atol=2e-6)


def test_the_final_ssp_bounds_filters_below():
    bounded, free = (filter_cuts(small_model(final, scale=30.0)) for final in (True, False))
    assert bounded.bounded and not free.bounded
    assert -LN2 <= bounded.cuts.min() < -0.9 * LN2  # near it, not below
    assert free.cuts.min() < -3.0


def test_without_a_cutoff_filters_do_not_vanish():
    paper = make_model("paper")
    far = filter_curves(paper, np.array([40.0, 50.0]))  # beyond all Gaussians: what the biases say
    np.testing.assert_allclose(far[:, 0], far[:, 1], atol=1e-12)
    assert np.abs(far).max() > 0.01
    assert filter_cuts(paper, points=11).bounded


def test_errors():
    without = AtomisticModel(Constant(), Atomwise(4))
    with pytest.raises(InputError, match="Constant has no filters"):
        filter_cuts(without)
    with pytest.raises(InputError, match="Constant has no filters"):
        filter_curves(without, np.array([1.0]))
    for wrong in (-0.1, np.nan, np.inf):
        with pytest.raises(InputError, match="finite numbers of Å that are not negative"):
            filter_curves(small_model(True), np.array([1.0, wrong]))
    with pytest.raises(InputError, match="0.0 Å and 11"):
        filter_cuts(small_model(True), extent=0.0, points=11)
    with pytest.raises(InputError, match="10.0 Å and 1"):
        filter_cuts(small_model(True), points=1)
