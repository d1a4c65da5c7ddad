"""Scale, shift, references, and sums that keep every digit."""

import numpy as np
import pytest
import torch
from ase import units
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Data

from pygschnet import Atomwise, InputError
from pygschnet.elements import MAX_Z
from tests.structures import ethanol, graph, make_model

KCAL = units.kcal / units.mol


def test_fit_takes_mean_and_deviation_per_atom():
    head = Atomwise(8, references={"H": -1.0, "O": -10.0})
    z, batch = torch.tensor([1, 1, 8, 1, 1]), torch.tensor([0, 0, 0, 1, 1])
    head.fit(z, batch, torch.tensor([-12.0 + 3.0, -2.0 + 6.0]))  # residuals 1 and 3 per atom
    assert head.mu.item() == 2.0 and head.sigma.item() == 1.0
    assert head.elements.nonzero().flatten().tolist() == [1, 8]
    assert head.reference_energies[6] == 0


def test_fit_for_a_mean_does_not_divide():
    head = Atomwise(8, aggregation="mean")
    head.fit(torch.tensor([1, 1, 1]), torch.tensor([0, 0, 1]), torch.tensor([4.0, 8.0]))
    assert head.mu.item() == 6.0 and head.sigma.item() == 2.0


def test_equal_energies_leave_the_scale_alone():
    head = Atomwise(8)
    head.fit(torch.tensor([1, 1]), torch.tensor([0, 1]), torch.tensor([-13.6, -13.6]))
    assert head.sigma.item() == 1.0 and head.mu.item() == pytest.approx(-13.6)


def test_mean_is_the_mean():
    head, x = Atomwise(4, aggregation="mean"), torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    z = torch.tensor([1, 1, 1])
    energy, atomic = head(x, Data(z=z, batch=torch.tensor([0, 0, 1])))
    torch.testing.assert_close(energy, torch.stack([atomic[:2].sum(), atomic[2]]))
    _, parts = head(x, Data(z=z, batch=torch.tensor([0, 1, 2])))
    torch.testing.assert_close(energy[0], parts[:2].mean())


def test_total_energies_keep_the_digits_that_float32_loses():
    """A shift of 10⁵ kcal/mol added in float64 costs nothing; added in float32 it costs 0.001 kcal/mol and more."""
    model = make_model("paper").float()
    data = [graph(ethanol(seed), model) for seed in range(8)]
    residual = torch.cat([model(one).energy for one in data]).detach()
    model.head.mu.fill_(-97208.0 * KCAL / 9)
    model = model.float()
    assert model.head.mu.dtype == torch.float64 and model.head.dense_1.weight.dtype == torch.float32
    total, offset = torch.cat([model(one).energy for one in data]).detach(), 9 * model.head.mu
    assert (total - offset - residual).abs().max() < 1e-9 * KCAL
    in_float32 = (residual.float() + offset.float()) - offset.float()
    assert (in_float32 - residual).abs().max() > 1e-3 * KCAL  # the negative control


def test_elements_outside_the_training_data():
    model = make_model("paper")
    data = graph(ethanol(), model)
    model.head.fit(torch.tensor([1, 6]), torch.tensor([0, 1]), torch.tensor([-13.0, -1029.0]))
    with pytest.raises(InputError, match="not been trained on O, only on H, C"):
        model(data)


def test_unknown_reference_element():
    with pytest.raises(InputError, match="unknown element 'Hx'"):
        Atomwise(8, references={"Hx": 1.0})


def test_given_scale_and_shift_are_kept():
    head = Atomwise(8, scale=0.5, shift=-3.0)
    head.fit(torch.tensor([1, 1]), torch.tensor([0, 1]), torch.tensor([-13.0, -14.0]))
    assert head.sigma.item() == 0.5 and head.mu.item() == -3.0 and head.fitted


@given(st.integers(0, 10_000))
def test_least_squares_recovers_the_references(seed):
    """Energies that are sums over atoms give back what each element adds, at any size of the energies."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, 30)
    z = torch.from_numpy(rng.choice([1, 6, 8], sizes.sum()))
    batch = torch.arange(30).repeat_interleave(torch.from_numpy(sizes))
    table = torch.zeros(MAX_Z + 1, dtype=torch.float64)
    table[[1, 6, 8]] = torch.tensor([-13.6, -1029.0, -2042.0], dtype=torch.float64)
    energy = torch.zeros(30, dtype=torch.float64).index_add(0, batch, table[z])
    head = Atomwise(8, references="least_squares")
    head.fit(z, batch, energy)
    torch.testing.assert_close(head.reference_energies, table, rtol=1e-9, atol=1e-8)
    assert abs(head.mu) < 1e-8


def test_references_that_cannot_be_told():
    ethanol = torch.tensor([6, 6, 8, 1, 1, 1, 1, 1, 1] * 4)
    batch, energy = torch.arange(4).repeat_interleave(9), torch.arange(4.0)
    with pytest.raises(InputError, match="cannot tell the reference energies of H, C, O apart: .* only 1 independent"):
        Atomwise(8, references="least_squares").fit(ethanol, batch, energy)
    with pytest.raises(InputError, match="no energies of isolated C, O: add these atoms"):
        Atomwise(8, references="data").fit(ethanol, batch, energy, {"H": -13.6})
    head = Atomwise(8, references="data")
    head.fit(ethanol, batch, energy, {"H": -13.6, "C": -1029.0, "O": -2042.0, "N": -1485.0})
    assert head.mu.item() == pytest.approx((energy.mean().item() + 13.6 * 6 + 2 * 1029 + 2042) / 9)
