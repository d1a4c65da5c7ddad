"""The layers alone, and inside other people's models."""

import math

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch_geometric.nn import GCNConv, Sequential, global_add_pool
from torch_geometric.nn.models import schnet as pyg

from pygschnet.nn import CFConv, Cutoff, FilterNetwork, GaussianBasis, InteractionBlock, shifted_softplus
from pygschnet.nn.cutoff import FORMS

SMOOTH = ["cosine", "polynomial", "mollifier"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_shifted_softplus():
    x = torch.tensor([0.0, -700.0, 1e4, -1e4], dtype=torch.float64, requires_grad=True)
    y = shifted_softplus(x)
    torch.testing.assert_close(y, torch.tensor([0.0, -math.log(2), 1e4 - math.log(2), -math.log(2)]).double())
    assert torch.autograd.grad(y[0], x)[0][0] == 0.5
    assert shifted_softplus(torch.tensor([1e4, -1e4])).isfinite().all()
    around_thresholds = torch.tensor([-3.0, 0.1, 19.99, 20.01, 39.0], dtype=torch.float64, requires_grad=True)
    assert gradcheck(shifted_softplus, around_thresholds)
    assert gradgradcheck(shifted_softplus, around_thresholds)
    exact = torch.logaddexp(around_thresholds, torch.zeros(())) - math.log(2)
    assert (shifted_softplus(around_thresholds) - exact).abs().max() < 1e-14


def test_gaussian_basis():
    basis = GaussianBasis(0.0, 30.0, 300, gamma=10.0)
    assert basis.centres[1].item() == pytest.approx(30 / 299)
    assert torch.equal(basis(basis.centres).diag(), torch.ones(300))
    assert basis(torch.tensor([1.0]))[0, 0].item() == pytest.approx(math.exp(-10.0))
    assert GaussianBasis(0.0, 5.0, 26).gamma == pytest.approx(1 / (2 * 0.2**2))
    with pytest.raises(ValueError, match="at least 2"):
        GaussianBasis(0.0, 5.0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussians_that_grow_with_the_distance(dtype):
    basis = GaussianBasis(0.8, 10.0, 40, relative_width=0.25).to(dtype)
    centres = 0.8 * (10 / 0.8) ** (torch.arange(40, dtype=torch.float64) / 39)
    d = torch.tensor([0.5, 0.8, 1.1, 4.0, 25.0], dtype=dtype)
    assert basis.reach(d) == slice(None)
    expected = torch.exp(-0.5 * ((d.double().unsqueeze(1) - centres) / (0.25 * centres)) ** 2)
    assert (basis(d) - expected).abs().max() < 20 * torch.finfo(dtype).eps
    assert (basis.narrowest, basis.widest, basis.end) == pytest.approx((0.2, 2.5, 25.0))


@pytest.mark.parametrize(
    "arguments", [{"start": 0.0}, {"relative_width": 0.0}, {"gamma": 1.0}], ids=["from 0", "no width", "two widths"]
)
def test_relative_widths_that_make_no_sense(arguments):
    with pytest.raises(ValueError, match="a relative width must be above 0"):
        GaussianBasis(**({"start": 0.8, "stop": 5.0, "count": 9, "relative_width": 0.25} | arguments))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distances", [[1.0, 4.2], [0.1], [29.9, 30.0], [50.0], []])
def test_gaussians_out_of_reach_are_below_rounding(dtype, distances):
    basis = GaussianBasis(0.0, 30.0, 300, gamma=10.0).to(dtype)
    d = torch.tensor(distances, dtype=dtype)
    everything, reach = basis(d), basis.reach(d)
    left_out = everything.clone()
    left_out[:, reach] = 0
    assert torch.equal(basis(d, reach), everything[:, reach])
    if len(d):
        assert left_out.max() < torch.finfo(dtype).eps / 10
    assert reach.stop - reach.start < 100


@pytest.mark.parametrize("form", FORMS)
def test_cutoff_functions(form):
    cutoff = Cutoff(5.0, form)
    assert cutoff(torch.zeros(1)) == pytest.approx(1.0)
    beyond = torch.tensor([5.0, 5.0001, 7.5, 10.0, 11.0, 1e6])  # PyG's cosine is 1 again at 10
    assert torch.equal(cutoff(beyond), torch.ones(6) if form == "none" else torch.zeros(6))
    inside = torch.linspace(0.1, 4.9, 20, dtype=torch.float64)
    assert (cutoff(inside).diff() <= 0).all()


@pytest.mark.parametrize("form", SMOOTH)
def test_smooth_cutoffs_end_flat(form):
    d = torch.tensor([2.0, 4.9, 5.0 - 1e-9, 5.0, 5.1], dtype=torch.float64, requires_grad=True)
    cutoff = Cutoff(5.0, form)
    first = torch.autograd.grad(cutoff(d).sum(), d, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), d)[0]
    assert first[2:].abs().max() < 1e-6
    expected = math.pi**2 / (2 * 25) if form == "cosine" else 0.0
    assert second[2].item() == pytest.approx(expected, abs=1e-6)
    assert torch.isfinite(second).all() and second[3:].abs().max() == 0
    assert gradgradcheck(cutoff, torch.tensor([0.5, 3.0, 4.5], dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("arguments", [(0.0, "cosine"), (None, "cosine"), (-1.0, "none")])
def test_impossible_cutoffs(arguments):
    with pytest.raises(ValueError, match="cutoff function"):
        Cutoff(*arguments)


def test_cfconv_is_the_textbook_sum():
    x = torch.randn(4, 3, generator=generator())
    edge_index = torch.tensor([[0, 1, 1, 3], [1, 0, 2, 2]])
    filters = torch.randn(4, 3, generator=generator(1))
    expected = torch.zeros(4, 3)
    for edge, (j, i) in enumerate(edge_index.T):
        expected[i] += x[j] * filters[edge]
    torch.testing.assert_close(CFConv()(x, edge_index, filters), expected)
    both = CFConv()(x, torch.cat([edge_index, edge_index.flip(0)], 1), filters.repeat(2, 1))
    torch.testing.assert_close(CFConv()(x, edge_index, filters, both_ways=True), both)


def test_cfconv_equals_pyg():
    network = FilterNetwork(6, 5, final_activation=False)
    theirs = pyg.CFConv(7, 7, 5, nn.Sequential(network.dense_1, pyg.ShiftedSoftplus(), network.dense_2), 3.0)
    x, d = torch.randn(9, 7, generator=generator()), torch.rand(20, generator=generator()) * 3
    edge_index, e = torch.randint(9, (2, 20), generator=generator()), GaussianBasis(0.0, 3.0, 6)(d)
    filters = network(e) * Cutoff(3.0)(d).unsqueeze(-1)
    ours = theirs.lin2(CFConv()(theirs.lin1(x), edge_index, filters))
    torch.testing.assert_close(ours, theirs(x, edge_index, d, e))


def test_cfconv_twice_differentiable():
    edge_index = torch.tensor([[0, 1, 2, 0], [1, 0, 1, 2]])
    x = torch.randn(3, 2, dtype=torch.float64, generator=generator(), requires_grad=True)
    filters = torch.randn(4, 2, dtype=torch.float64, generator=generator(1), requires_grad=True)
    for both_ways in (False, True):
        assert gradgradcheck(lambda x, w, both=both_ways: CFConv()(x, edge_index, w, both), (x, filters))


def test_filter_network_twice_differentiable():
    network = FilterNetwork(8, 4).double()
    basis = GaussianBasis(0.0, 5.0, 8).double()
    d = torch.tensor([0.9, 2.2, 4.0], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda d: network(basis(d)), d)
    assert gradgradcheck(lambda d: network(basis(d)), d)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_layers_inside_another_pyg_model(dimensions):
    """Somebody's graph network: node features of their own, points in ℝ² or ℝ³, one layer of ours."""
    conv = Sequential(
        "x, edge_index, d, batch",
        [
            (GaussianBasis(0.0, 2.0, 10), "d -> e"),
            (FilterNetwork(10, 16), "e -> w"),
            (GCNConv(5, 16), "x, edge_index -> x"),
            nn.ReLU(),
            (CFConv(), "x, edge_index, w -> x"),
            (InteractionBlock(16, 16), "x, edge_index, w -> x"),
            (global_add_pool, "x, batch -> x"),
            nn.Linear(16, 2),
        ],
    )
    pos = torch.rand(12, dimensions, generator=generator(), requires_grad=True)
    x, batch = torch.randn(12, 5, generator=generator()), torch.arange(12) // 6
    edge_index = torch.randint(6, (2, 30), generator=generator())
    edge_index = edge_index[:, edge_index[0] != edge_index[1]]
    d = (pos[edge_index[0]] - pos[edge_index[1]]).norm(dim=1)
    out = conv(x, edge_index, d, batch)
    assert out.shape == (2, 2)
    gradient = torch.autograd.grad(out.sum(), pos, create_graph=True)[0]
    gradient.square().sum().backward()  # what training on forces needs
    without = [name for name, parameter in conv.named_parameters() if parameter.grad is None]
    assert without == ["module_5.dense.bias", "module_7.bias"]  # constants, which forces do not depend on


def test_interaction_block_in_a_module_of_its_own():
    class PointCloudNet(nn.Module):
        """Features come from another layer, filters from the lengths of a k-nearest-neighbour graph."""

        def __init__(self):
            super().__init__()
            self.encode = nn.Linear(4, 8)
            self.filter = nn.Sequential(nn.Linear(3, 6), nn.Tanh())  # any map from edge attributes to filters
            self.blocks = nn.ModuleList(InteractionBlock(8, 6) for _ in range(2))

        def forward(self, x, edge_index, edge_attr):
            x, filters = self.encode(x), self.filter(edge_attr)
            for block in self.blocks:
                x = x + block(x, edge_index, filters)
            return x

    torch.manual_seed(0)
    net, x, edge_attr = PointCloudNet(), torch.randn(5, 4), torch.randn(10, 3)
    edge_index = torch.randint(5, (2, 10))
    order = torch.tensor([3, 1, 4, 0, 2])
    back = order.argsort()
    torch.testing.assert_close(net(x[order], back[edge_index], edge_attr), net(x, edge_index, edge_attr)[order])
