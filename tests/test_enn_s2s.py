"""enn-s2s against the paper's equations written out, its parameter counts, and what bond types do to energies."""

import math

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given, settings
from torch_geometric.data import Batch, Data

import pygschnet
from pygschnet import AtomisticModel, InputError, RadiusGraph
from pygschnet.bonds import bond_types
from pygschnet.graph import edge_distances
from pygschnet.heads import Set2SetReadout
from pygschnet.representations import EnnS2S
from pygschnet.saving import build
from tests.structures import batch_of, ethanol, graph, molecules, randomise

few = settings(max_examples=8, deadline=None)


def make(bonds: bool = False, **settings) -> AtomisticModel:
    representation = EnnS2S(10, 3, edge_layers=2, edge_hidden=7, bond_types=bonds, **settings)
    head = Set2SetReadout(representation.features, 3, 9, scale=20.0, references={"H": -13.6, "C": -1029.0})
    return randomise(AtomisticModel(representation, head)).double().eval()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def ssp(x):
    return np.logaddexp(x, 0) - math.log(2)


def weights(model: AtomisticModel) -> dict[str, np.ndarray]:
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def gru(w, m, h):
    reset_m, update_m, new_m = np.split(w["representation.update.weight_ih"] @ m, 3)
    reset_h, update_h, new_h = np.split(w["representation.update.weight_hh"] @ h, 3)
    z = sigmoid(update_m + update_h)
    return (1 - z) * np.tanh(new_m + sigmoid(reset_m + reset_h) * new_h) + z * h


def edge_matrix(w, network, e, width):
    name = f"representation.convolutions.{network}.nn"
    for layer in (0, 2):
        e = ssp(w[f"{name}.{layer}.weight"] @ e + w[f"{name}.{layer}.bias"])
    return (w[f"{name}.4.weight"] @ e + w[f"{name}.4.bias"]).reshape(width, width).T  # NNConv multiplies from the left


def set2set(w, x, steps):
    features = x.shape[1]
    query, cell, answer = np.zeros(features), np.zeros(features), np.zeros(features)
    for _ in range(steps):
        gates = w["head.set2set.lstm.weight_ih_l0"] @ np.concatenate([query, answer])
        gates += w["head.set2set.lstm.bias_ih_l0"] + w["head.set2set.lstm.bias_hh_l0"]
        gates += w["head.set2set.lstm.weight_hh_l0"] @ query
        into, forget, candidate, out = np.split(gates, 4)
        cell = sigmoid(forget) * cell + sigmoid(into) * np.tanh(candidate)
        query = sigmoid(out) * np.tanh(cell)
        attention = np.exp(x @ query) / np.exp(x @ query).sum()
        answer = attention @ x
    return np.concatenate([query, answer])


def energy_of_the_paper(model: AtomisticModel, atoms: Atoms, attributes) -> float:
    """Atom by atom and edge by edge; `attributes` gives e of two atoms."""
    w, representation, head = weights(model), model.representation, model.head
    symbols, width = representation.elements, representation.width
    x = np.array([[s == e for e in symbols] + [z / 9] for s, z in zip(atoms.symbols, atoms.numbers, strict=True)])
    h, n = np.pad(x, ((0, 0), (0, width - x.shape[1]))), len(atoms)
    for _ in range(representation.interactions):
        messages = []
        for i in range(n):
            parts = []
            for network in range(representation.edge_networks):
                m = w[f"representation.convolutions.{network}.bias"].copy()
                for j in range(n):
                    if j != i:
                        m += edge_matrix(w, network, attributes(i, j), width) @ h[j]
                parts.append(m)
            messages.append(np.concatenate(parts))
        h = np.array([gru(w, m, state) for m, state in zip(messages, h, strict=True)])
    answer = set2set(w, np.concatenate([h, x], axis=1) @ w["head.embedding.weight"].T, head.steps)
    hidden = ssp(w["head.dense_1.weight"] @ answer + w["head.dense_1.bias"])
    output = (w["head.dense_2.weight"] @ hidden + w["head.dense_2.bias"]).item()
    return 20.0 * output + sum({"H": -13.6, "C": -1029.0}.get(symbol, 0.0) for symbol in atoms.symbols)


@pytest.mark.parametrize("networks", [1, 2])
@pytest.mark.parametrize("atoms", [molecule("HCN"), Atoms("OH", [[0, 0, 0], [0.3, 0.9, 0.1]]), Atoms("C")], ids=str)
def test_equal_to_the_equations(atoms, networks):
    model = make(edge_networks=networks)
    expected = energy_of_the_paper(model, atoms, lambda i, j: np.array([atoms.get_distance(i, j)]))
    assert model(graph(atoms, model)).energy.item() == pytest.approx(expected, rel=1e-12)


def test_equal_to_the_equations_with_bond_types():
    model, atoms = make(bonds=True), molecule("HCN")  # C, N, H
    bonds = {(0, 1): [0, 0, 1, 0], (0, 2): [1, 0, 0, 0], (1, 2): [0, 0, 0, 0]}

    def attributes(i, j):
        return np.array([*bonds[min(i, j), max(i, j)], atoms.get_distance(i, j)])

    expected = energy_of_the_paper(model, atoms, attributes)
    assert model(graph(atoms, model)).energy.item() == pytest.approx(expected, rel=1e-12)


@few
@given(molecule=molecules())
def test_messages_are_those_of_nnconv(molecule):
    """PyG's own way, with all edge matrices, is still there; the representation never goes it."""
    model = make(gaussians=6)
    data = RadiusGraph(None)(molecule)
    representation, (convolution,) = model.representation, model.representation.convolutions
    x = representation.inputs(data.z)
    h = torch.nn.functional.pad(x, (0, 10 - x.shape[1]))
    for _ in range(3):
        attributes = representation.attributes(edge_distances(data))
        h = representation.update(convolution(h, data.edge_index, attributes), h)
    torch.testing.assert_close(representation(data), torch.cat([h, x], -1), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("networks", "bonds"), [(2, True), (1, False)])
def test_parameter_counts(networks, bonds):
    """Those of Google's code, layer by layer, where it and PyG have the same layers: all but the read-out's attention.

    Of its edges' six numbers one, the class "no bond", is all that this one has not.
    """
    d, hidden, inputs, edge = 50, 50, 6, 5 if bonds else 1
    edge_network = edge * hidden + hidden + 3 * (hidden**2 + hidden) + hidden * d**2 + d**2
    gru = 3 * (networks * d * d + d * d)
    message_bias = networks * d
    representation = EnnS2S(bond_types=bonds, edge_networks=networks)
    count = sum(parameter.numel() for parameter in representation.parameters())
    assert count == networks * edge_network + gru + message_bias

    f = d + inputs
    embedding, output = f * f, 2 * f * 200 + 200 + 200 + 1
    google_lstm, google_attention = 4 * (2 * f * f + f), f * f + f
    pyg_lstm = 4 * (2 * f * f + f * f + f + f)  # the query goes in twice, as input and as state, and so do biases
    readout = sum(parameter.numel() for parameter in Set2SetReadout(representation.features).parameters())
    assert readout == embedding + pyg_lstm + output
    assert readout - (embedding + google_lstm + google_attention + output) == 3 * f * f + 3 * f


def test_the_preset_is_as_published():
    text = (pygschnet.saving.files("pygschnet.presets") / "enn_s2s.yaml").read_text()
    settings = yaml.safe_load(text)["model"]
    model = AtomisticModel(build(settings["representation"]), build(settings["head"]))
    assert model.representation.interactions == 6 and model.head.steps == 12
    assert model.representation.bond_types and model.representation.edge_networks == 2
    assert sum(parameter.numel() for parameter in model.parameters()) == 2 * 135_450 + 22_500 + 100 + 64_017


@few
@given(molecule=molecules(2))
def test_set2set_does_not_know_the_order(molecule):
    head = make().head
    x = torch.randn(len(molecule.z), head.features, dtype=torch.float64)
    order = torch.randperm(len(molecule.z))
    energy, _ = head(x, molecule)
    permuted, shares = head(x[order], Data(z=molecule.z[order], pos=molecule.pos[order]))
    torch.testing.assert_close(permuted, energy, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(shares.sum(), energy[0], rtol=1e-12, atol=1e-12)


def test_set2set_of_one_atom_is_its_own_answer():
    head, w = make().head, weights(make())
    x = torch.randn(1, head.features, dtype=torch.float64)
    embedded = (x.numpy() @ w["head.embedding.weight"].T)[0]
    answers = head.set2set(head.embedding(x), torch.zeros(1, dtype=torch.long), dim_size=1).detach().numpy()[0]
    np.testing.assert_allclose(answers[head.features :], embedded, rtol=1e-12)  # all attention on it
    np.testing.assert_allclose(answers, set2set(w, embedded[None], head.steps), rtol=1e-12)


def test_shares_are_equal_but_for_the_references():
    model = make()
    prediction = model(graph(molecule("C2H4"), model))
    less = prediction.atomic_energies - model.head.reference_energies[torch.tensor([6, 6, 1, 1, 1, 1])]
    torch.testing.assert_close(less, less[:1].expand(6))


def test_scale_and_shift_are_those_of_molecules_less_references():
    head = Set2SetReadout(5, references={"H": -13.0, "C": -1000.0})
    z, batch = torch.tensor([6, 1, 1, 6, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 2])
    energy = torch.tensor([-1026.0 + 1, -1013.0 + 2, -13.0 + 6]).double()
    head.fit(z, batch, energy)
    assert head.mu.item() == pytest.approx(3.0)
    assert head.sigma.item() == pytest.approx(math.sqrt(14 / 3))
    torch.nn.init.zeros_(head.dense_2.weight)
    predicted, _ = head(torch.randn(6, 5), Data(z=z, batch=batch))
    np.testing.assert_allclose(predicted.detach(), energy + torch.tensor([2.0, 1.0, -3.0]), rtol=1e-14)


@few
@given(first=molecules(), second=molecules(), third=molecules())
def test_molecules_of_a_batch_do_not_see_each_other(first, second, third):
    """Not even the padding: the atoms of a batch have different numbers of neighbours."""
    model = make(edge_networks=2)
    together = model(batch_of([first, second, third], model))
    alone = model(batch_of([second], model))
    atoms = slice(len(first.z), len(first.z) + len(second.z))
    torch.testing.assert_close(together.energy[1], alone.energy[0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(together.forces[atoms], alone.forces, rtol=1e-10, atol=1e-10)


def test_a_crystal_with_a_cutoff():
    """Twice the cell is twice the features; the read-out does not grow with it, so only the features say so."""
    model = make(elements=("Si", "C"), cutoff=4.0, cutoff_form="cosine")
    cell = bulk("SiC", "zincblende", a=4.36)
    cell.rattle(0.05, seed=1)
    features = [model.representation(graph(atoms, model)) for atoms in (cell, cell.repeat((1, 1, 2)))]
    torch.testing.assert_close(features[1], features[0].repeat(2, 1), rtol=1e-10, atol=1e-10)
    assert model(graph(cell, model), stress=True).stress.abs().max() > 1e-6


@pytest.mark.parametrize("step", [-1e-7, 1e-7])
def test_beyond_the_cutoff_there_is_nothing(step):
    model = make(cutoff=3.0, cutoff_form="polynomial")
    pair = model.representation(graph(Atoms("CO", [[0, 0, 0], [3.0 + step, 0, 0]]), model))
    apart = [model.representation(graph(Atoms(symbol), model)) for symbol in "CO"]
    torch.testing.assert_close(pair, torch.cat(apart), rtol=1e-12, atol=1e-12)


def scan(model: AtomisticModel, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies of water as one of its bonds is stretched, and the type of that bond."""
    energies, types = [], []
    for length in lengths:
        atoms = Atoms("OHH", [[0, 0, 0], [length, 0, 0], [-0.24, 0.93, 0]])
        data = graph(atoms, model)
        energies.append(model(data, forces=False).energy.item())
        types.append(bond_types(data)[(data.edge_index == torch.tensor([[1], [0]])).all(0)].item())
    return np.array(energies), np.array(types)


def test_bond_types_make_energies_jump():
    """Where RDKit stops to see a bond the energy jumps; of the distance alone it is continuous (science: MD17)."""
    pytest.importorskip("rdkit")
    lengths = np.arange(0.95, 1.35, 0.02)
    smooth, types = scan(make(), lengths)
    jumping, _ = scan(make(bonds=True), lengths)
    flips = np.flatnonzero(np.diff(types))
    assert len(flips) == 1 and types[0] > types[-1] == 0
    low, high = lengths[flips[0]], lengths[flips[0] + 1]
    for _ in range(30):  # the place where it flips, to 2e-11 Å
        middle = (low + high) / 2
        low, high = (middle, high) if scan(make(), np.array([middle]))[1][0] == types[0] else (low, middle)
    at_flip = np.array([low, high])
    assert abs(np.diff(scan(make(), at_flip)[0]).item()) < 1e-8
    assert abs(np.diff(scan(make(bonds=True), at_flip)[0]).item()) > 1e-2
    away = np.delete(np.abs(np.diff(jumping)), flips)
    assert np.abs(np.diff(jumping))[flips].item() > 3 * away.max()  # and nowhere else
    assert np.abs(np.diff(smooth)).max() < 0.5


def test_perceived_bonds():
    pytest.importorskip("rdkit")
    data = Batch.from_data_list([pygschnet.from_atoms(molecule(name)) for name in ("C6H6", "HCN", "H2CO", "H2O")])
    data = RadiusGraph(None)(data)
    counts = [torch.bincount(part, minlength=5).tolist() for part in bond_types(data).split([132, 6, 12, 6])]
    assert counts == [[108, 12, 0, 0, 12], [2, 2, 0, 2, 0], [6, 4, 2, 0, 0], [2, 4, 0, 0, 0]]  # both directions
    assert bond_types(graph(Atoms("H"), make())).tolist() == []


def test_corners_of_small_rings_are_not_bonded():
    """Bicyclo[1.1.1]pentane, whose bridgeheads are 1.9 Å apart, and which RDKit's own radii cannot make sense of."""
    pytest.importorskip("rdkit")
    corners = [("C", [0, 0, s * 0.935]) for s in (1, -1)] + [("H", [0, 0, s * 2.025]) for s in (1, -1)]
    for angle in (0, 120, 240):
        out, across = np.array([[math.cos(a), math.sin(a), 0] for a in np.radians([angle, angle + 90])])
        corners += [("C", 1.24 * out), ("H", 1.85 * out + 0.9 * across), ("H", 1.85 * out - 0.9 * across)]
    symbols, positions = zip(*corners, strict=True)
    types = bond_types(graph(Atoms(symbols, positions), make()))
    assert torch.bincount(types).tolist() == [13 * 12 - 2 * 14, 2 * 14]


def test_perception_knows_the_charge():
    pytest.importorskip("rdkit")
    ammonium = Atoms("NHHHH", np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.59)
    with pytest.raises(InputError, match=r"no bonds for this H4N of charge 0 e \(.*check the charge"):
        bond_types(graph(ammonium, make()))
    ammonium.info["charge"] = 1
    assert bond_types(graph(ammonium, make())).sum() == 8


def test_given_bonds_win_over_perceived_ones():
    model = make(bonds=True)
    data = graph(ethanol(), model)
    perceived = bond_types(data)
    energy = model(data).energy
    data.edge_type = perceived.clone()
    torch.testing.assert_close(model(data).energy, energy)
    data.edge_type = torch.where(perceived == 1, 4, perceived)
    assert (model(data).energy - energy).abs() > 1e-3
    data.edge_type = torch.full_like(perceived, 5)
    with pytest.raises(InputError, match="edge_type holds 5: use 0 none, 1 single, 2 double, 3 triple, 4 aromatic"):
        model(data)
    data.edge_type = perceived[1:]
    with pytest.raises(InputError, match="one integer for each of the 72 edges"):
        model(data)


def test_what_it_does_not_know():
    with pytest.raises(InputError, match="atomic number 16 is not among the elements H, C, N, O, F"):
        make()(graph(molecule("SH2"), make()))
    with pytest.raises(InputError, match="unknown element 'Xx'"):
        EnnS2S(elements=["H", "Xx"])
    with pytest.raises(InputError, match="width = 3 has room for 2 different elements, got H, C, O"):
        EnnS2S(3, elements=["H", "C", "O"])
    crystal = make(bonds=True, elements=("Si",), cutoff=3.0, cutoff_form="cosine")
    with pytest.raises(InputError, match="bond types are perceived in molecules only"):
        crystal(graph(bulk("Si"), crystal))


def test_without_rdkit_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rdkit", None)
    with pytest.raises(InputError, match=r"pip install 'pygschnet\[bonds\]', or give them in the field edge_type"):
        bond_types(graph(ethanol(seed=99), make()))


@pytest.mark.parametrize("bonds", [False, True])
def test_force_training_is_finite(bonds):
    """Twice differentiable, with bond types too: these are constants between their jumps."""
    model = make(bonds, gaussians=8).float()
    data = batch_of([pygschnet.from_atoms(atoms) for atoms in (ethanol(), molecule("H2O"), Atoms("C"))], model)
    model(data).forces.square().sum().backward()
    gradients = [parameter.grad for name, parameter in model.named_parameters() if name != "head.dense_2.bias"]
    assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in gradients)
