"""The one operator that training takes, against autograd through the layers: the same numbers and gradients."""

import pytest
import torch
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from pygschnet import AtomisticModel, Atomwise, SchNet, from_atoms
from pygschnet.kernels import cpu
from pygschnet.training.module import energy_forces_loss
from tests.structures import batch_of, ethanol, molecules, randomise

pytestmark = pytest.mark.skipif(cpu.library(torch.float32) is None, reason="there is no C compiler")


def make(form="none", cutoff=None, features=16, filters=24, blocks=2) -> AtomisticModel:
    """A model in float64 that takes its filters from a table all the same."""
    basis = {"gaussians": 12, "gaussian_stop": cutoff or 6.0, "gamma": None}
    schnet = SchNet(features, filters, blocks, **basis, cutoff=cutoff, cutoff_form=form, filters_from="table")
    return randomise(AtomisticModel(schnet, Atomwise(features, scale=0.7, shift=-3.0))).double().train()


def labelled(molecules, model):
    batch = batch_of(molecules, model)
    torch.manual_seed(3)
    batch.energy = torch.randn(batch.num_graphs, dtype=torch.float64)
    batch.forces = torch.randn_like(batch.pos)
    return batch


def gradients(model, batch, rho=2.0, energy_weight=1.0):
    model.zero_grad()
    prediction = model(batch)
    energy_forces_loss(prediction, batch, rho, energy_weight).backward()
    return prediction, {name: weight.grad.clone() for name, weight in model.named_parameters()}


def layer_by_layer(model, batch, monkeypatch, **loss):
    with monkeypatch.context() as patch:
        patch.setattr(SchNet, "trained", lambda *_: None)
        return gradients(model, batch, **loss)


def took_the_operator(prediction) -> bool:
    nodes, seen = [prediction.forces.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [following for following, _ in node.next_functions]
    return any(type(node).__name__ == "OutputsAndSlopesBackward" for node in seen)


def agree(model, batch, monkeypatch, **loss):
    prediction, found = gradients(model, batch, **loss)
    expected, wanted = layer_by_layer(model, batch, monkeypatch, **loss)
    assert took_the_operator(prediction) and not took_the_operator(expected)
    for part in ("energy", "forces", "atomic_energies"):
        torch.testing.assert_close(getattr(prediction, part), getattr(expected, part), rtol=1e-9, atol=1e-9)
    scale = max(float(gradient.abs().max()) for gradient in wanted.values())
    for name, gradient in wanted.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-8, atol=1e-10 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(("form", "cutoff"), [("none", None), ("hard", 3.0), ("cosine", 3.0)])
@pytest.mark.parametrize("loss", [{}, {"energy_weight": 0.0}, {"energy_weight": 50.0, "rho": 0.1}])
def test_gradients_are_those_of_autograd(form, cutoff, loss, monkeypatch):
    model = make(form, cutoff)
    agree(model, labelled([from_atoms(ethanol(seed)) for seed in range(3)], model), monkeypatch, **loss)


@settings(max_examples=15, deadline=None)
@given(st.lists(molecules(low=2), min_size=1, max_size=3))
def test_of_any_molecules(structures):
    model = make()
    with pytest.MonkeyPatch.context() as patch:
        agree(model, labelled(structures, model), patch)


def test_of_an_atom_among_its_own_images(monkeypatch):
    crystal, model = bulk("Si"), make("cosine", 4.5)
    crystal.rattle(0.1, seed=0)
    agree(model, labelled([from_atoms(crystal)], model), monkeypatch)


def test_frozen_weights_get_no_gradients(monkeypatch):
    model = make()
    frozen = [model.representation.embedding.weight, model.representation.blocks[0].in2f.weight]
    for weight in frozen:
        weight.requires_grad_(False)
    _, batch = model.zero_grad(), labelled([from_atoms(ethanol())], model)
    prediction = model(batch)
    energy_forces_loss(prediction, batch, 1.0).backward()
    assert took_the_operator(prediction) and all(weight.grad is None for weight in frozen)
    assert model.head.dense_1.weight.grad.abs().max() > 0


class Louder(SchNet):
    """Somebody's own."""

    def forward(self, data):
        return 2 * super().forward(data)


def hook(model):
    model.representation.blocks[1].dense.register_forward_hook(lambda *_: None)


def backward_hook(model):
    model.representation.blocks[1].dense.register_full_backward_hook(lambda *_: None)


def hook_of_the_head(model):
    model.head.dense_1.register_full_backward_hook(lambda *_: None)


def own_layer(model):
    model.representation.blocks[0].dense = torch.nn.Sequential(model.representation.blocks[0].dense)


def own_class(model):
    model.representation.__class__ = Louder


def other_head(model):
    model.head.activation = "silu"


@pytest.mark.parametrize("change", [hook, backward_hook, hook_of_the_head, own_layer, own_class, other_head])
def test_what_somebody_has_changed_takes_the_ordinary_path(change):
    model = make()
    change(model)
    assert not took_the_operator(model(labelled([from_atoms(ethanol())], model)))


def test_gradients_of_positions_take_the_ordinary_path():
    model = make()
    batch = labelled([from_atoms(ethanol())], model)
    batch.pos.requires_grad_()
    prediction = model(batch)
    (hessian_row,) = torch.autograd.grad(prediction.forces[0, 0], batch.pos)
    assert not took_the_operator(prediction) and hessian_row.abs().max() > 0
