"""Symmetry functions against loops over atoms, their standardisation, and angles at which derivatives could fail."""

import math
from itertools import combinations, product

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given, settings
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

import pygschnet
from pygschnet import RadiusGraph, from_atoms
from pygschnet.heads import Elemental
from pygschnet.nn import symmetry_jacobian
from pygschnet.representations import SymmetryFunctions, symmetry_functions
from pygschnet.training import AtomisticModule
from tests.structures import ethanol, molecules

CUTOFFS = {
    "cosine": lambda x: 0.5 * (math.cos(math.pi * x) + 1),
    "polynomial": lambda x: 1 - 6 * x**5 + 15 * x**4 - 10 * x**3,
    "mollifier": lambda x: math.exp(1 - 1 / (1 - x**2)),
}

SETTINGS = (
    {},
    {"centred": True, "cutoff": 3.0, "cutoff_form": "mollifier", "zetas": [1, 3], "radial": 4},
    {"cross_terms": True, "cutoff": 4.0, "cutoff_form": "polynomial", "angular": 2, "zetas": [2, 16]},
    {"weighted": False, "elements": ["O", "H", "C", "N"], "cutoff": 3.5, "radial": 3, "angular": 2},
    {"weighted": False, "elements": ["N", "O", "C", "H"], "cross_terms": True, "zetas": [4, 1], "radial": 2},
)


def by_hand(atoms: Atoms, centre: int, settings: dict) -> list[float]:
    """The symmetry functions of an atom, as the equations are written: loops over neighbours and their images."""
    cutoff, zetas = settings.get("cutoff", 5.0), settings.get("zetas", [1])
    radial, angular = settings.get("radial", 22), settings.get("angular", 5)
    form = CUTOFFS[settings.get("cutoff_form", "cosine")]

    def f(d):
        return form(d / cutoff) if d < cutoff else 0.0

    images = [range(-3, 4) if periodic else (0,) for periodic in atoms.pbc]
    neighbours = []
    for shift in product(*images):
        for number, position in zip(atoms.numbers, atoms.positions + np.array(shift) @ atoms.cell.array, strict=True):
            if 1e-9 < np.linalg.norm(position - atoms.positions[centre]) < cutoff:
                neighbours.append((number, position - atoms.positions[centre]))

    s = np.linspace(1.0, cutoff - 0.5, radial)
    centres = np.linspace(0.5, cutoff - 0.5, radial)
    etas = 1 / (2 * s**2) if settings.get("centred") else np.full(radial, 1 / (2 * (centres[1] - centres[0]) ** 2))
    centres = np.zeros(radial) if settings.get("centred") else centres
    elements = [Atoms(symbol).numbers[0] for symbol in settings.get("elements", [])]
    weighted = settings.get("weighted", True)
    values = []
    for element in [None] if weighted else elements:
        for mu, eta in zip(centres, etas, strict=True):
            total = 0.0
            for number, v in neighbours:
                if element in (None, number):
                    d = np.linalg.norm(v)
                    total += (number if weighted else 1) * math.exp(-eta * (d - mu) ** 2) * f(d)
            values.append(total)
    pairs = [(a, b) for k, a in enumerate(elements) for b in elements[k:]]
    for pair in [None] if weighted else pairs:
        for width, zeta, sign in product(np.linspace(1.0, cutoff - 0.5, angular), zetas, (1, -1)):
            total, eta = 0.0, 1 / (2 * width**2)
            for (number_j, v), (number_k, w) in combinations(neighbours, 2):
                if pair is None or sorted(pair) == sorted((number_j, number_k)):
                    a, b, c = (np.linalg.norm(x) for x in (v, w, v - w))
                    part = (1 + sign * v @ w / (a * b)) ** zeta * math.exp(-eta * (a**2 + b**2)) * f(a) * f(b)
                    if settings.get("cross_terms"):
                        part *= math.exp(-eta * c**2) * f(c)
                    total += 2.0 ** (1 - zeta) * part * (number_j * number_k if weighted else 1)
            values.append(total)
    return values


def of(atoms: Atoms, representation: SymmetryFunctions) -> torch.Tensor:
    return representation.functions(RadiusGraph(representation.cutoff)(from_atoms(atoms)))


@pytest.mark.parametrize("settings", SETTINGS)
def test_equal_to_loops_over_the_atoms_of_a_molecule(settings):
    representation = SymmetryFunctions(**settings)
    atoms = ethanol()
    atoms.numbers[0] = 7
    found = of(atoms, representation)
    assert found.shape[1] == representation.features
    for centre in (0, 2, 5):
        expected = torch.tensor(by_hand(atoms, centre, settings), dtype=torch.float64)
        torch.testing.assert_close(found[centre], expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("settings", SETTINGS[1:3])
def test_equal_to_loops_over_the_images_of_a_crystal(settings):
    """Neighbours that are images of each other, and of the atom itself, make triplets too."""
    crystal = bulk("NaCl", "rocksalt", a=4.0)
    crystal.positions += np.random.default_rng(3).normal(scale=0.1, size=(2, 3))
    found = of(crystal, SymmetryFunctions(**settings))
    for centre in (0, 1):
        expected = torch.tensor(by_hand(crystal, centre, settings), dtype=torch.float64)
        torch.testing.assert_close(found[centre], expected, rtol=1e-11, atol=1e-13)


def test_numbers_of_functions():
    assert SymmetryFunctions().features == 32
    assert SymmetryFunctions(weighted=False, elements=["H", "C", "N", "O", "F"]).features == 260


def test_known_triplet():
    """A right angle of two neighbours at 1 Å: each G⁵ is exp(−2η) f(1)² · 1 · 8, being counted once."""
    representation = SymmetryFunctions()
    found = of(Atoms("CHO", [[0, 0, 0], [1, 0, 0], [0, 1, 0]]), representation)[0, 22:]
    widths = np.linspace(1.0, 4.5, 5).repeat(2)
    expected = 8 * np.exp(-1 / widths**2) * (0.5 * (math.cos(math.pi / 5) + 1)) ** 2
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("settings", SETTINGS)
def test_nothing_happens_at_the_cutoff(settings):
    """Value and derivative vanish as a neighbour leaves, and are continuous: a jump of either would heat dynamics."""
    representation = SymmetryFunctions(**settings)
    derivatives = []
    for step in (-1e-6, 1e-6):
        atoms = Atoms("COH", [[0, 0, 0], [0, 1.1, 0.2], [representation.cutoff + step, 0, 0]])
        data = RadiusGraph(representation.cutoff)(from_atoms(atoms))
        pos = data.pos.requires_grad_()
        functions = representation.functions(data)
        rows = [
            torch.autograd.grad(functions[:, k].sum(), pos, retain_graph=True)[0] for k in range(functions.shape[1])
        ]
        derivatives.append((functions.detach(), torch.stack(rows)))
    for before, after in zip(*derivatives, strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=1e-4)
    assert derivatives[1][0][2].abs().max() == 0  # the hydrogen is alone


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", ["CO2", "HCN", "C2H2", "H2O", "C2H4", "NH3"])
def test_linear_and_planar_molecules_can_be_differentiated_twice(settings, name):
    """Angles of 0 and π, where formulas with an arccosine or a root fail."""
    atoms = molecule(name)
    atoms.rotate(37, (1, 2, 3))
    representation = SymmetryFunctions(**settings)
    data = RadiusGraph(representation.cutoff)(from_atoms(atoms))
    pos = data.pos.requires_grad_()
    weights = torch.randn(representation.features, generator=torch.Generator().manual_seed(0)).double()
    gradient = torch.autograd.grad(representation.functions(data) @ weights @ torch.ones(len(pos)).double(), pos,
                                   create_graph=True)[0]  # fmt: skip
    second = torch.autograd.grad(gradient.square().sum(), pos)[0]
    assert gradient.isfinite().all() and second.isfinite().all() and second.abs().max() > 0


@pytest.mark.parametrize("settings", SETTINGS)
def test_jacobian_is_that_of_autograd(settings):
    """Training on forces uses derivatives written by hand, everything else those of autograd, to any order."""
    representation = SymmetryFunctions(**settings)
    data = RadiusGraph(representation.cutoff)(from_atoms(molecule("CH3CONH2")))
    generator = torch.Generator().manual_seed(0)
    displacement = torch.randn(data.pos.shape, generator=generator).double()
    first, second = [], []
    for frozen in (True, False):
        pos = data.pos.clone().requires_grad_()
        moved = Data(z=data.z, pos=pos, edge_index=data.edge_index)
        functions = representation.functions(moved)
        weights = torch.ones_like(functions).requires_grad_()
        gradient = torch.autograd.grad((functions * weights).sum(), pos, create_graph=True)[0]
        pos.requires_grad_(not frozen)  # as a model does when its forces are there
        (gradient * displacement).sum().backward()
        first.append(gradient.detach())
        second.append(weights.grad)
        assert (pos.grad is None) == frozen
    torch.testing.assert_close(second[0], second[1], rtol=1e-10, atol=1e-10)
    numerical = [
        representation.functions(Data(z=data.z, pos=data.pos + h * displacement, edge_index=data.edge_index))
        for h in (1e-5, -1e-5)
    ]
    torch.testing.assert_close(second[0], (numerical[0] - numerical[1]) / 2e-5, rtol=1e-6, atol=1e-6)


def test_third_derivatives():
    """Of trained models: how a Hessian changes with the positions."""
    representation = SymmetryFunctions(radial=2, angular=1, zetas=[2], cross_terms=True)
    data = RadiusGraph(representation.cutoff)(from_atoms(molecule("H2O")))

    def slope(pos):
        functions = representation.functions(Data(z=data.z, pos=pos, edge_index=data.edge_index))
        return torch.autograd.grad(functions.square().sum(), pos, create_graph=True)[0]

    pos = data.pos.requires_grad_()
    assert torch.autograd.gradcheck(slope, pos, fast_mode=True)
    assert torch.autograd.gradgradcheck(slope, pos, fast_mode=True)


@settings(max_examples=10, deadline=None)
@given(data=molecules(low=3))
def test_swapping_like_neighbours_changes_nothing(data):
    representation = SymmetryFunctions(weighted=False, elements=["H", "C", "N", "O"], cross_terms=True, radial=4)
    data.z[1:] = 6
    before = representation.functions(RadiusGraph(5.0)(data))[0]
    order = torch.cat([torch.tensor([0]), torch.randperm(len(data.z) - 1) + 1])
    after = representation.functions(RadiusGraph(5.0)(Data(z=data.z, pos=data.pos[order])))[0]
    torch.testing.assert_close(before, after, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_few_atoms_at_a_time_give_the_same(settings, monkeypatch):
    representation = SymmetryFunctions(**settings)
    data = RadiusGraph(representation.cutoff)(Batch.from_data_list([from_atoms(ethanol(k)) for k in range(2)]))
    results, calls = [], []
    original = symmetry_jacobian.symmetry_functions
    monkeypatch.setattr(symmetry_jacobian, "symmetry_functions", lambda *a: calls.append(len(a[0])) or original(*a))
    for array in (2**21, 2**10, 1):
        monkeypatch.setattr(symmetry_functions, "ARRAY", array)
        results.append(representation.functions(data))
    torch.testing.assert_close(results[0], results[1], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(results[0], results[2], rtol=1e-13, atol=1e-13)
    assert calls[0] == 18 and calls[-18:] == [1] * 18


def test_edges_in_any_order_give_the_same():
    representation = SymmetryFunctions(cross_terms=True)
    data = RadiusGraph(5.0)(from_atoms(ethanol()))
    order = torch.randperm(data.edge_index.shape[1], generator=torch.Generator().manual_seed(0))
    shuffled = Data(z=data.z, pos=data.pos, edge_index=data.edge_index[:, order])
    expected = representation.functions(data)
    torch.testing.assert_close(representation.functions(shuffled), expected, rtol=1e-13, atol=1e-13)


def batches_of(numbers: list[int]) -> list[Batch]:
    """Distorted ethanols and one hydrogen cyanide, in batches of these sizes."""
    frames = [from_atoms(molecule("HCN")), *(from_atoms(ethanol(seed)) for seed in range(sum(numbers) - 1))]
    return [RadiusGraph(5.0)(Batch.from_data_list([frames.pop() for _ in range(number)])) for number in numbers]


def test_standardised_for_each_element():
    representation = SymmetryFunctions()
    assert not representation.fitted
    training = batches_of([3, 10, 1])
    representation.fit(training, [])
    assert representation.fitted
    x = torch.cat([representation.double()(batch) for batch in training])
    z = torch.cat([batch.z for batch in training])
    plain = torch.cat([representation.functions(batch) for batch in training])
    for number in (1, 6, 8):
        constant = plain[z == number].std(0, correction=0) < symmetry_functions.CONSTANT
        of_element = x[z == number]
        assert constant.sum() < 16 and (of_element[:, constant] == 0).all()
        torch.testing.assert_close(of_element.mean(0), torch.zeros(32).double(), rtol=0, atol=1e-10)
        deviations = of_element[:, ~constant].std(0, correction=0)
        torch.testing.assert_close(deviations, torch.ones_like(deviations), rtol=0, atol=1e-4)  # (std + 1e-9) / std
    assert (x[z == 7] == 0).all()  # of the only nitrogen nothing varies


def test_statistics_do_not_depend_on_the_batches_and_stay_exact():
    """One pass over many batches, for functions whose mean is thousands of standard deviations."""
    one, many = SymmetryFunctions(), SymmetryFunctions()
    one.fit(batches_of([40]), [])
    many.fit([single for single in batches_of([1] * 40)], [])
    torch.testing.assert_close(many.mean, one.mean, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(many.scale, one.scale, rtol=1e-9, atol=1e-9)


def test_training_takes_statistics_from_the_training_molecules_only(tmp_path):
    frames = [RadiusGraph(5.0)(from_atoms(ethanol(seed))) for seed in range(12)]
    for k, data in enumerate(frames):
        data.energy, data.forces = torch.tensor([0.1 * k]).double(), torch.zeros_like(data.pos)
    module = AtomisticModule(SymmetryFunctions(), Elemental(32, ["H", "C", "N", "O"]))
    settings = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(
        default_root_dir=tmp_path, max_steps=2, log_every_n_steps=1, enable_progress_bar=False, **settings
    )
    trainer.fit(module, DataLoader(frames[:8], 4, shuffle=True), DataLoader(frames[8:], 4))
    expected = SymmetryFunctions()
    expected.fit([Batch.from_data_list(frames[:8])], [])
    for model in (module.model, module.averaged):
        torch.testing.assert_close(model.representation.mean, expected.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(model.representation.scale, expected.scale, rtol=1e-6, atol=0)


def test_casting_keeps_the_statistics():
    representation = SymmetryFunctions()
    representation.fit(batches_of([5]), [])
    mean, data = representation.mean.clone(), batches_of([1])[0]
    exact = representation.double()(data)
    assert exact.dtype == torch.float64
    single = representation.float()(data)
    assert single.dtype == torch.float32 and representation.mean.dtype == torch.float64
    torch.testing.assert_close(single, exact.float(), rtol=0, atol=0)  # rounded at the end only
    assert torch.equal(representation.double().mean, mean)
    data.pos = data.pos.float()
    torch.testing.assert_close(representation(data), exact, rtol=0, atol=1e-2)
    assert representation(data).dtype == torch.float64


def test_refusals():
    with pytest.raises(pygschnet.InputError, match="symmetry functions for H, C, not for O"):
        of(ethanol(), SymmetryFunctions(weighted=False, elements=["H", "C"]))
    with pytest.raises(pygschnet.InputError, match='elements: \\["H", "C"\\]'):
        SymmetryFunctions(weighted=False)
    with pytest.raises(pygschnet.InputError, match="listed twice: H, H"):
        SymmetryFunctions(weighted=False, elements=["H", "H"])
    with pytest.raises(pygschnet.InputError, match="unknown element 'Q'"):
        SymmetryFunctions(weighted=False, elements=["Q"])
    with pytest.raises(pygschnet.InputError, match="which is 1.0 Å"):
        SymmetryFunctions(cutoff=1.0)
    with pytest.raises(pygschnet.InputError, match="integers ζ from 1"):
        SymmetryFunctions(zetas=[0])


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("symbols", ["C", "CO"])
def test_an_atom_alone_has_no_symmetry_functions(settings, symbols):
    """Nor a derivative; with one neighbour it has no angular ones. Neither must trip over empty arrays."""
    representation = SymmetryFunctions(**settings)
    data = RadiusGraph(representation.cutoff)(
        from_atoms(Atoms(symbols, [[0, 0, 1.1 * k] for k in range(len(symbols))]))
    )
    pos = data.pos.requires_grad_()
    functions = representation.functions(data)
    forces = torch.autograd.grad(functions.sum(), pos, create_graph=True, materialize_grads=True)[0]
    if symbols == "C":
        assert (functions == 0).all() and (forces == 0).all()
    channels = len(settings.get("elements", "Z"))
    assert (functions[:, channels * settings.get("radial", 22) :] == 0).all() and forces.isfinite().all()
