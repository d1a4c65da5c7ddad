"""Filters from a table: as exact as float32 allows, trained through, kept in evaluation and never out of date."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import ase.build
import pytest
import torch
from hypothesis import given, settings
from torch_geometric.data import Batch, Data

import pygschnet
from pygschnet import AtomisticModel, Atomwise, RadiusGraph, SchNet
from pygschnet.datasets import MD17
from pygschnet.kernels import available
from pygschnet.kernels import molecule as molecule_file
from pygschnet.nn.table import Knots, table_error
from pygschnet.representations import schnet as schnet_file
from pygschnet.representations import whole
from pygschnet.saving import VARIANTS
from pygschnet.training import energy_forces_loss
from tests.structures import bare, ethanol, graph, molecules, randomise

pytestmark = pytest.mark.skipif(
    not available(torch.device("cpu"), torch.float32), reason="no compiled kernels, so nothing is tabulated"
)


def initialised(name):
    """A preset as training starts from it, but with an output layer that gives something."""
    torch.manual_seed(0)
    model = pygschnet.preset(name)
    torch.nn.init.normal_(model.head.dense_2.weight, std=0.3)
    return model


def single(data, dtype=torch.float32):
    data = copy.copy(data)
    data.pos = data.pos.to(dtype)
    return data


def filters_from(model, source, dtype=None):
    model = copy.deepcopy(model)
    model.representation.filters_from = source
    return model if dtype is None else model.to(dtype)


def rms(x):
    return x.detach().square().mean().sqrt().item()


def some_molecules(model):
    frames = [pygschnet.from_atoms(ethanol(seed)) for seed in range(12)]
    frames += [pygschnet.from_atoms(ase.build.molecule(name)) for name in ("C6H6", "CH3NO2", "H2O", "C4H4S")]
    for frame in frames:
        frame.pos = frame.pos.float().double()  # the same positions for both precisions
    return RadiusGraph(model.cutoff)(Batch.from_data_list(frames))


def assert_exact(model, data):
    exact = filters_from(model, "pairs", torch.float64).eval()(data)
    for training in (True, False):
        found = filters_from(model, "table").train(training)(single(data))
        assert (found.energy - exact.energy).abs().max() <= 1e-6 * exact.energy.abs().max()
        assert rms(found.forces - exact.forces) <= 1e-5 * rms(exact.forces)
    with torch.no_grad():
        found = filters_from(model, "auto").eval()(single(data))
    assert rms(found.forces - exact.forces) <= 1e-5 * rms(exact.forces)


@pytest.mark.parametrize("name", VARIANTS)
def test_energies_and_forces_are_exact_to_float32(name):
    model = initialised(name)
    assert_exact(model, some_molecules(model))


def trained(name, steps):
    model = initialised(name)
    data = MD17("data/ethanol.npz", train=200, val=10, test=10, batch_size=20)
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    frames = next(iter(loader))
    model.head.fit(frames.z, frames.batch, frames.energy)
    frames = RadiusGraph(model.cutoff)(frames)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3, fused=True)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = energy_forces_loss(model(frames), frames, 100.0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    return model, frames


@pytest.mark.parametrize("name", ["paper", "schnetpack"])
def test_trained_weights_are_served_as_exactly(name):
    model, frames = trained(name, 120)
    frames.pos = frames.pos.double()
    assert_exact(model, frames)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_certificate_for_every_preset(name):
    for model in (initialised(name), randomise(pygschnet.preset(name))):
        representation = model.representation
        knots = Knots.between(0.6, 5.0, representation.basis)
        filters, slopes = table_error(list(representation.filter_networks), representation.basis, knots)
        assert filters.max() < 5e-7 and slopes.max() < 1e-5
        coarse = knots._replace(spacing=2 * knots.spacing, number=knots.number // 2, first=knots.first // 2)
        worse = table_error(list(representation.filter_networks), representation.basis, coarse)
        assert worse[0].min() > 10 * filters.max() and worse[1].min() > 5 * slopes.max()


def test_gradients_of_the_weights():
    model = initialised("schnetpack")
    data = some_molecules(model)
    gradients = {}
    for name, other in (
        ("exact", filters_from(model, "pairs", torch.float64)),
        ("training", filters_from(model, "table")),
        ("evaluation", filters_from(model, "table").eval()),
    ):
        labelled = single(data, torch.float64 if name == "exact" else torch.float32)
        labelled.energy, labelled.forces = torch.zeros(16).double(), torch.zeros_like(labelled.pos)
        energy_forces_loss(other(labelled), labelled, 100.0).backward()
        gradients[name] = torch.cat([parameter.grad.flatten().double() for parameter in other.parameters()])
    for name in ("training", "evaluation"):
        assert rms(gradients[name] - gradients["exact"]) < 1e-5 * rms(gradients["exact"])


def test_float64_and_incomplete_graphs_are_not_tabulated(monkeypatch):
    monkeypatch.setattr(SchNet, "_splines", lambda *a, **k: pytest.fail("tabulated"))
    model = initialised("schnetpack").eval()
    model.double()(graph(ethanol(), model))
    data = single(graph(ethanol(), model))
    del data.edge_cutoff  # not from RadiusGraph: some edges may lack their reverse
    model.float()(data)


def test_few_pairs_without_forces_are_trained_one_by_one(monkeypatch):
    model = initialised("schnetpack").train()
    data, batch = single(graph(ethanol(), model)), single(some_molecules(model))
    calls = []
    for file, name in ((schnet_file, "tabulate"), (whole, "tabulate_once")):
        real = getattr(file, name)
        monkeypatch.setattr(file, name, lambda *a, name=name, real=real: calls.append(name) or real(*a))
    model(data, forces=False)
    assert not calls
    model(batch, forces=False)
    model(data)
    assert calls == ["tabulate", "tabulate_once"]


CHANGES = {
    "a step of the optimiser": lambda model: step(model, fused=False),
    "a fused step of the optimiser": lambda model: step(model, fused=True),
    "load_state_dict": lambda model: model.load_state_dict(randomise(pygschnet.preset("schnetpack"), 3).state_dict()),
    "assignment of .data": lambda model: [setattr(p, "data", 1.01 * p.data) for p in model.parameters()],
    "a new parameter": lambda model: setattr(
        model.representation.filter_networks[1].dense_2,
        "weight",
        torch.nn.Parameter(torch.zeros(128, 128)),
    ),
    "a new layer": lambda model: setattr(model.representation.blocks[1], "f2out", torch.nn.Linear(128, 128)),
    "an average moving in place": lambda model: [p.detach().lerp_(torch.ones(()), 0.01) for p in model.parameters()],
    "a hook": lambda model: model.representation.blocks[2].dense.register_forward_hook(lambda *a: 1.1 * a[-1]),
    "a cast there and back": lambda model: model.to(torch.bfloat16).float(),
}


def step(model, fused):
    model.requires_grad_()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, fused=fused)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("once", [True, False])
def test_tables_are_kept_but_never_out_of_date(change, once, monkeypatch):
    model = initialised("schnetpack").eval().requires_grad_(False)
    data = single(graph(ethanol(), model))
    calls = []
    monkeypatch.setattr(schnet_file, "tabulate", lambda *a, real=schnet_file.tabulate: calls.append(1) or real(*a))
    with torch.set_grad_enabled(not once):
        before = [model(data) for _ in range(3)][-1]
        assert calls == [1]
        CHANGES[change](model)
        model(data)
        CHANGES[change](model)  # and again: what is new is watched as well
        after = model(data)
        expected = filters_from(model, "pairs")(data)
    assert (before.energy - after.energy).abs() > 1e-4
    torch.testing.assert_close(after.energy, expected.energy, rtol=1e-5, atol=1e-5)
    assert rms(after.forces - expected.forces) < 1e-4 * (1 + rms(expected.forces))


@settings(max_examples=25, deadline=None)
@given(molecule=molecules(high=12))
@pytest.mark.parametrize("name", VARIANTS)
def test_all_blocks_at_once_are_the_same(name, molecule):
    model = randomise(pygschnet.preset(name)).eval()
    data = single(bare(molecule.z, molecule.pos, model))
    slow = model(data)
    with torch.no_grad():
        fast = model(data)
    exact = filters_from(model, "pairs", torch.float64)(single(data, torch.float64))
    scale = exact.forces.detach().abs().max() + 1
    assert not fast.energy.requires_grad and not fast.forces.requires_grad
    torch.testing.assert_close(fast.atomic_energies, slow.atomic_energies, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(fast.forces, slow.forces, rtol=0, atol=3e-5 * float(scale))


def test_all_at_once_is_used(monkeypatch):
    """And not for large systems, odd sizes, float64, other output networks, or while someone watches a layer."""
    calls = []
    real = molecule_file.outputs
    monkeypatch.setattr(molecule_file, "outputs", lambda *a: calls.append(1) or real(*a))
    model = initialised("schnetpack").eval()
    data = single(graph(ethanol(), model))
    with torch.no_grad():
        model(data)
        assert calls == [1]
        model(data, forces=False)
        model.train()(data)
        model.eval().double()(single(data, torch.float64))
        with monkeypatch.context() as small:
            small.setattr(molecule_file, "EDGES", 100)
            model.float()(single(some_molecules(model)))
        odd = AtomisticModel(SchNet(20, 12, 2, gaussians=20, gaussian_stop=4.0, cutoff=4.0), Atomwise(20)).eval()
        odd(single(graph(ethanol(), odd)))
        for head in (Atomwise(128, activation="silu"), Atomwise(128, aggregation="mean"), Doubled(128)):
            AtomisticModel(model.representation, head).eval()(data)
        for layer in (model.head, model.head.dense_1, model.representation, model.representation.embedding):
            handle = layer.register_forward_hook(lambda *a: None)
            model(data)
            handle.remove()
        with torch.autocast("cpu", torch.bfloat16):
            model(data)
    model(data)
    assert calls == [1]


@pytest.mark.parametrize("name", ["schnetpack", "pyg"])
@pytest.mark.parametrize("repeat", [1, 3])
def test_crystals_and_liquids_at_once(name, repeat, monkeypatch):
    """Energy, forces and stress of 8 atoms with images of themselves, and of 216, as with autograd; on any threads."""
    model = randomise(pygschnet.preset(name)).eval()
    atoms = ase.build.bulk("SiC", "zincblende", a=4.4, cubic=True).repeat(repeat)
    atoms.set_cell(atoms.cell.array @ (torch.eye(3) + 0.05 * torch.ones(3, 3).triu(1)).numpy(), scale_atoms=True)
    atoms.rattle(0.1, seed=1)
    model.representation.cutoff = cutoff = min(model.cutoff, 5.0)
    data = RadiusGraph(cutoff)(pygschnet.from_atoms(atoms))
    threads, found = torch.get_num_threads(), []
    with torch.no_grad():
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(model(data, stress=True))
        torch.set_num_threads(threads)
        monkeypatch.setattr(molecule_file, "EDGES", 0)
        slow = model(data, stress=True)
    for one, two in zip(found[0][:4], found[1][:4], strict=True):
        assert torch.equal(one, two)
    scale = slow.atomic_energies.abs().sum().item()
    assert found[0].energy.item() == pytest.approx(slow.energy.item(), abs=3e-6 * scale)
    for name in ("forces", "stress"):
        expected = getattr(slow, name)
        torch.testing.assert_close(getattr(found[0], name), expected, rtol=0, atol=3e-5 * float(expected.abs().max()))
    assert model.cutoff and slow.stress.abs().max() > 0


def test_weights_that_the_one_call_does_not_take():
    """Another precision, width or bias of the output network; integers of 32 bits; weights laid out otherwise."""
    model = initialised("schnetpack").eval()
    data = single(graph(ethanol(), model))

    def transposed(head):
        head.dense_1.weight = torch.nn.Parameter(head.dense_1.weight.t().contiguous().t())

    def without_bias(head):
        head.dense_1.bias = None

    def narrow(head):
        head.dense_1 = torch.nn.Linear(64, 64)

    with torch.no_grad():
        before = model(data)
        small = copy.copy(data)
        small.z, small.edge_index = data.z.int(), data.edge_index.int()
        torch.testing.assert_close(model(small).forces, before.forces)
        for change in (transposed, without_bias):
            changed = copy.deepcopy(model)
            change(changed.head)
            exact = filters_from(changed, "pairs")(data)
            torch.testing.assert_close(changed(data).forces, exact.forces, rtol=1e-4, atol=1e-5)
        for change in (narrow, lambda head: head.double()):
            changed = copy.deepcopy(model)
            change(changed.head)
            with pytest.raises(RuntimeError, match="shapes cannot be multiplied|same dtype"):
                changed(data)


class Doubled(Atomwise):
    def forward(self, x, data):
        energy, atomic = super().forward(x, data)
        return 2 * energy, 2 * atomic


class Reversed(SchNet):
    def forward(self, data):
        return -super().forward(data)


def test_what_a_subclass_changes_counts():
    torch.manual_seed(0)
    settings = dict(gaussian_stop=5.0, cutoff=5.0, cutoff_form="cosine", gamma=None, gaussians=25)
    for representation, head in ((Reversed(**settings), Atomwise()), (SchNet(**settings), Doubled())):
        model = AtomisticModel(representation, head).eval()
        data = single(graph(ethanol(), model))
        with torch.no_grad():
            fast = model(data)
        torch.testing.assert_close(fast.forces, model(data).forces, rtol=0, atol=1e-5 * rms(fast.forces))


@pytest.mark.parametrize("size", [1, 2])
def test_small_crystals_at_once(size, monkeypatch):
    """Atoms that neighbour their own images, two crystals in a batch, positions of either precision."""
    calls = []
    monkeypatch.setattr(molecule_file, "outputs", lambda *a, real=molecule_file.outputs: calls.append(1) or real(*a))
    torch.manual_seed(0)
    model = AtomisticModel(
        SchNet(32, 32, 2, gaussians=25, gaussian_stop=5.0, gamma=None, cutoff=5.0, cutoff_form="cosine"), Atomwise(32)
    ).eval()
    crystals = [ase.build.bulk("NaCl", "rocksalt", a=4.2) * (size, 1, 1), ase.build.bulk("Si", "diamond", a=5.4)]
    for seed, atoms in enumerate(crystals):
        atoms.rattle(0.1, seed=seed)
    data = Batch.from_data_list([graph(atoms, model) for atoms in crystals])
    exact = filters_from(model, "edges", torch.float64)(data)
    for dtype in (torch.float32, torch.float64):
        small = single(data, dtype)
        small.cell = small.cell.to(dtype)
        with torch.no_grad():
            found = model(small)
        assert found.forces.dtype == dtype
        assert rms(found.forces - exact.forces) < 1e-5 * rms(exact.forces)
        torch.testing.assert_close(found.energy, exact.energy, rtol=1e-6, atol=1e-6)
    assert calls == [1, 1]


def test_edges_of_atoms_that_do_not_exist():
    model = initialised("schnetpack").eval()
    data = single(graph(ethanol(), model))
    data.edge_index = data.edge_index.clone()
    data.edge_index[1, -1] = 9
    with torch.no_grad(), pytest.raises(IndexError):
        model(data)


def test_stress_and_images_of_an_atom():
    """A cell so small that atoms neighbour their own images."""
    torch.manual_seed(0)
    model = AtomisticModel(
        SchNet(32, 32, 2, gaussians=25, gaussian_stop=5.0, gamma=None, cutoff=5.0, cutoff_form="cosine"), Atomwise(32)
    ).eval()
    atoms = ase.build.bulk("NaCl", "rocksalt", a=4.2) * (1, 1, 1)
    atoms.rattle(0.1, seed=0)
    data = graph(atoms, model)
    data.pos, data.cell = data.pos.float(), data.cell.float()
    assert (data.edge_index[0] == data.edge_index[1]).any()
    expected = filters_from(model, "edges")(data, stress=True)
    for source in ("pairs", "table", "auto"):
        for enabled in (True, False):
            with torch.set_grad_enabled(enabled):
                found = filters_from(model, source)(data, stress=True)
            for name in ("energy", "forces", "stress"):
                theirs = getattr(expected, name)
                tolerance = 2e-5 * theirs.detach().abs().max().item()
                torch.testing.assert_close(getattr(found, name), theirs, rtol=0, atol=tolerance)


def test_a_table_grows_with_the_molecules_and_does_not_shrink(monkeypatch):
    model = initialised("paper").eval()
    calls = []
    monkeypatch.setattr(schnet_file, "tabulate", lambda *a, real=schnet_file.tabulate: calls.append(1) or real(*a))
    frames = [single(bare(torch.tensor([1, 8]), torch.tensor([[0.0, 0, 0], [0, 0, d]]), model)) for d in (1.5, 7, 2, 5)]
    found = [model(frame).forces for frame in frames]
    assert len(calls) == 2
    for frame, forces in zip(frames, found, strict=True):
        torch.testing.assert_close(forces, filters_from(model, "pairs")(frame).forces, rtol=1e-4, atol=1e-6)


def test_filters_that_a_table_cannot_follow():
    model = initialised("schnetpack").eval()
    with torch.no_grad():
        for network in model.representation.filter_networks:
            network.dense_1.weight *= 300
    data = single(graph(ethanol(), model))
    with pytest.warns(UserWarning, match="vary faster than a table can follow"):
        found = model(data)
    torch.testing.assert_close(found, filters_from(model, "pairs")(data))


def test_positions_that_are_not_numbers_give_no_numbers():
    for name in VARIANTS:
        model = initialised(name)
        data = single(graph(ethanol(), model))
        data.pos[3, 1] = float("nan")
        for training in (True, False):
            for enabled in (True, False):
                with torch.set_grad_enabled(enabled):
                    for source in ("auto", "table"):
                        assert filters_from(model, source).train(training)(data).energy.isnan().all()


def test_far_beyond_all_gaussians():
    model = initialised("paper").eval()
    data = bare(torch.tensor([1, 8]), torch.tensor([[0.0, 0, 0], [0, 0, 5e4]]), model)
    torch.testing.assert_close(model(data).energy, filters_from(model, "pairs")(data).energy, rtol=1e-5, atol=1e-6)


def test_hessians():
    model = initialised("schnetpack").eval()
    data = graph(ethanol(), model)

    def hessian(model, dtype):
        moved = single(data, dtype)

        def energy(pos):
            moved.pos = pos
            return model(moved, forces=False).energy.sum()

        return torch.autograd.functional.hessian(energy, moved.pos).double()

    exact = hessian(filters_from(model, "pairs", torch.float64), torch.float64)
    assert rms(hessian(filters_from(model, "table"), torch.float32) - exact) < 3e-4 * rms(exact)
    tabulated = filters_from(model, "table", torch.float64)
    assert rms(hessian(tabulated, torch.float64) - exact) < 3e-4 * rms(exact)


def test_without_compiled_kernels_the_same_numbers():
    script = """
import json, torch, pygschnet
from tests.structures import ethanol, graph, randomise
model = randomise(pygschnet.preset("schnetpack")).eval()
data = graph(ethanol(), model)
data.pos = data.pos.float()
with torch.no_grad():
    model.representation.filters_from = "table"
    assert model(data).forces.isfinite().all()
    model.representation.filters_from = "auto"
print(json.dumps([model(data).energy.item(), model(data).forces.tolist()]))
"""
    found = []
    for compiler in ("cc", "false"):
        output = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            capture_output=True,
            check=True,
            text=True,
            cwd=Path(__file__).parents[1],
            env={**os.environ, "CC": compiler, "PYTHONPATH": "."},
        )
        found.append(json.loads(output.stdout))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(torch.tensor(found[0][1]), torch.tensor(found[1][1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_autocast(training):
    model = initialised("schnetpack").train(training)
    data = single(some_molecules(model))
    exact = model(data)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled), torch.autocast("cpu", torch.bfloat16):
            found = model(data)
        assert rms(found.forces - exact.forces) < 0.05 * rms(exact.forces)


def test_data_is_not_changed():
    model = initialised("schnetpack").eval()
    data = single(graph(ethanol(), model))
    before = {key: value.clone() for key, value in data.to_dict().items()}
    with torch.no_grad():
        model(data)
    assert isinstance(data, Data) and data.to_dict().keys() == before.keys() and not data.pos.requires_grad
    assert all(torch.equal(data[key], value) for key, value in before.items())
