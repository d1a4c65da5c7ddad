"""A network for each element."""

import pytest
import torch
from ase.build import molecule
from torch_geometric.data import Batch, Data

import pygschnet
from pygschnet import from_atoms
from pygschnet.heads import Elemental
from tests.structures import ethanol, randomise

SYMBOLS = ["O", "H", "F", "C"]


def make(**settings) -> Elemental:
    return randomise(Elemental(5, SYMBOLS, hidden=[7, 6], **settings)).double()


def two_molecules() -> tuple[Batch, torch.Tensor]:
    data = Batch.from_data_list([from_atoms(ethanol()), from_atoms(molecule("CH4"))])
    return data, torch.randn(len(data.z), 5, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("activation", ["ssp", "silu"])
def test_equal_to_all_networks_on_all_atoms(activation):
    head = make(activation=activation, scale=2.0, shift=-3.0, references={"H": -13.6})
    data, x = two_molecules()
    energy, atomic = head(x, data)
    expected = torch.zeros(len(x)).double()
    for symbol, number in (("O", 8), ("H", 1), ("F", 9), ("C", 6)):
        expected += torch.where(data.z == number, head.networks[symbol](x).squeeze(-1), 0.0)
    expected = 2.0 * expected - 3.0 - 13.6 * (data.z == 1)
    torch.testing.assert_close(atomic, expected)
    torch.testing.assert_close(energy, torch.stack([expected[:9].sum(), expected[9:].sum()]))


def test_depth_and_widths():
    weights = [
        tuple(p.shape) for name, p in make().named_parameters() if name.startswith("networks.C.") and p.dim() == 2
    ]
    assert weights == [(7, 5), (6, 7), (1, 6)]


def test_networks_act_on_their_element_only():
    head, (data, x) = make(), two_molecules()
    before = head(x, data)[1]
    with torch.no_grad():
        for parameter in head.networks["C"].parameters():
            parameter.add_(1.0)
    assert torch.equal(head(x, data)[1] != before, data.z == 6)


def test_only_atoms_of_the_element_are_evaluated():
    head, (data, x) = make(), two_molecules()
    seen = {}
    for symbol, network in head.networks.items():
        network.register_forward_hook(
            lambda module, inputs, output, symbol=symbol: seen.update({symbol: len(inputs[0])})
        )
    head(x, data)
    assert seen == {"O": 1, "H": 10, "F": 0, "C": 3}


def test_absent_elements_have_gradients_of_zero():
    """Processes that train in parallel wait for the gradients of all parameters."""
    head, (data, x) = make(), two_molecules()
    x.requires_grad_()
    energy = head(x, data)[0].sum()
    (energy + torch.autograd.grad(energy, x, create_graph=True)[0].square().sum()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad.abs().max() > 0) == (not name.startswith("networks.F")), name


def test_no_atoms_at_all():
    """The share of a process that got no molecules."""
    data = Data(
        z=torch.zeros(0, dtype=torch.long), batch=torch.zeros(0, dtype=torch.long), ptr=torch.zeros(1, dtype=torch.long)
    )
    energy = make()(torch.zeros(0, 5).double(), data)[0]
    assert len(energy) == 0
    energy.sum().backward()


def test_elements_without_a_network_are_refused():
    data = from_atoms(molecule("HCN"))
    with pytest.raises(pygschnet.InputError, match="networks for O, H, F, C, not for N"):
        make()(torch.zeros(3, 5).double(), data)
    with pytest.raises(pygschnet.InputError, match="unknown element 'Q'"):
        Elemental(5, ["H", "Q"])
    with pytest.raises(pygschnet.InputError, match="an element is listed twice: H, H"):
        Elemental(5, ["H", "H"])
