"""The ASE calculator: the model's own numbers, true derivatives, neighbours that are never out of date."""

import math
import warnings

import ase.build
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.filters import FrechetCellFilter
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from ase.phonons import Phonons
from hypothesis import given, settings
from hypothesis import strategies as st

import pygschnet
from pygschnet import AtomisticModel, Atomwise, Calculator, InputError, RadiusGraph, SchNet
from pygschnet.graph import from_atoms
from pygschnet.neighbours import Neighbours
from pygschnet.simulation.dynamics import thermalise
from tests.structures import ethanol, graph, make_model, randomise, steep_model


def water():
    rng = np.random.default_rng(1)
    one = ase.build.molecule("H2O")
    box = Atoms(cell=[9.3] * 3, pbc=True)
    for site in np.ndindex(3, 3, 3):
        copy = one.copy()
        copy.rotate(rng.uniform(0, 360), rng.normal(size=3))
        copy.positions += 3.1 * np.array(site)
        box += copy
    return box


def silicon():
    atoms = ase.build.bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def triclinic():
    """Smaller than the cutoffs: atoms have several images of the same neighbour, and of themselves."""
    return Atoms(
        "OSi", [[0.1, 0.2, 0.0], [1.1, 1.0, 0.9]], cell=[[2.2, 0, 0], [0.7, 2.4, 0], [-0.4, 0.6, 2.1]], pbc=True
    )


def slab():
    atoms = ase.build.fcc111("Al", (2, 2, 2), vacuum=6.0)
    atoms.rattle(0.05, seed=2)
    return atoms


SYSTEMS = {"ethanol": ethanol, "water": water, "silicon": silicon, "triclinic": triclinic, "slab": slab}
MODELS = ("short", "schnetpack")


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", [*MODELS, "table"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_models_own_numbers(system, name, dtype):
    model, atoms = make_model(name).to(dtype), SYSTEMS[system]()
    crystal, relative = bool(atoms.pbc.all()), 1e-6 if dtype == torch.float32 else 1e-12
    with torch.no_grad():
        expected = model(graph(atoms, model))
    forces = expected.forces.double().numpy()
    atoms.calc = Calculator(model)
    assert atoms.get_potential_energy() == pytest.approx(expected.energy.item(), rel=relative)
    assert atoms.get_potential_energies().sum() == pytest.approx(expected.energy.item(), rel=relative)
    np.testing.assert_allclose(atoms.get_forces(), forces, rtol=0, atol=relative * abs(forces).max())
    if crystal:
        with torch.no_grad():
            stress = model(graph(atoms, model), stress=True).stress[0].double().numpy()
        found = atoms.get_stress(voigt=False)
        np.testing.assert_allclose(found, stress, rtol=0, atol=relative * abs(stress).max())


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", MODELS)
def test_forces_and_stress_are_derivatives_of_the_energy(system, name):
    atoms = SYSTEMS[system]()
    atoms.calc = Calculator(make_model(name))
    some = list(range(min(len(atoms), 3)))
    numerical = calculate_numerical_forces(atoms, eps=1e-4, iatoms=some)
    np.testing.assert_allclose(atoms.get_forces()[some], numerical, atol=1e-6)
    if atoms.pbc.all():
        numerical = calculate_numerical_stress(atoms, eps=1e-6)
        np.testing.assert_allclose(atoms.get_stress(), numerical, rtol=0, atol=1e-6 * max(1, abs(numerical).max()))


def same_graph(found, expected):
    assert torch.equal(found.edge_index, expected.edge_index)
    assert torch.equal(found.edge_cutoff, expected.edge_cutoff)
    assert ("edge_shift" in found) == ("edge_shift" in expected)
    if "edge_shift" in found:
        assert torch.equal(found.edge_shift, expected.edge_shift)


@settings(max_examples=40, deadline=None)
@given(
    system=st.sampled_from(sorted(SYSTEMS)),
    skin=st.sampled_from([0.0, 0.3, 1.0]),
    changes=st.lists(
        st.sampled_from(["small", "large", "wrap", "strain", "shear", "grow", "pbc", "element"]), max_size=8
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_neighbours_are_never_out_of_date(system, skin, changes, seed):
    rng, atoms = np.random.default_rng(seed), SYSTEMS[system]()
    cutoff = 2.5
    neighbours = Neighbours(cutoff, skin)
    for change in ["small", *changes]:
        if change in ("small", "large"):
            atoms.positions += rng.normal(scale={"small": 0.03, "large": 0.3}[change], size=atoms.positions.shape)
        elif change == "wrap" and atoms.pbc.any():
            atoms.wrap()
        elif change in ("strain", "shear") and atoms.cell.rank == 3:
            strain = rng.normal(scale=0.02, size=(3, 3)) * (np.eye(3) if change == "strain" else 1)
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=bool(rng.integers(2)))
        elif change == "grow":
            atoms.append("H")
            atoms.positions[-1] = atoms.positions[:-1].max(axis=0) + 0.8
        elif change == "pbc":
            atoms.pbc = atoms.pbc & (rng.random(3) < 0.7)
        elif change == "element":
            atoms.numbers[0] = rng.integers(1, 90)
        found, distances = neighbours.graph(atoms)
        same_graph(found, RadiusGraph(cutoff)(from_atoms(atoms)))
        assert (distances < cutoff).all()


def test_neighbours_are_searched_for_rarely():
    atoms, neighbours = water(), Neighbours(3.0, 0.5)
    rng = np.random.default_rng(0)
    for step in range(40):
        atoms.positions += rng.uniform(-0.01, 0.01, atoms.positions.shape)
        atoms.set_cell(atoms.cell * (1 + 1e-4), scale_atoms=True)
        neighbours.graph(atoms)
        assert step or neighbours.searches == 1
    assert 1 <= neighbours.searches <= 3
    molecule, all_pairs = ethanol(), Neighbours(None)
    for _ in range(3):
        molecule.rattle(0.5, seed=3)
        all_pairs.graph(molecule)
    assert all_pairs.searches == 1


def test_a_committee_gives_mean_and_spread():
    models = [randomise(make_model("short"), seed) for seed in range(3)]
    atoms = silicon()
    singles = []
    for model in models:
        single = Calculator(model)
        single.calculate(atoms, ["stress"])
        singles.append(single.results)
        assert not any(name.endswith("_std") for name in single.results)
    atoms.calc = Calculator(models)
    for name, value in {"forces": atoms.get_forces(), "energy": atoms.get_potential_energy()}.items():
        values = np.array([single[name] for single in singles])
        np.testing.assert_allclose(value, values.mean(0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(atoms.calc.results[f"{name}_std"], values.std(0, ddof=1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        atoms.get_stress(), np.mean([single["stress"] for single in singles], axis=0), atol=1e-14
    )
    assert atoms.calc.results["stress_std"].shape == (6,)
    with pytest.raises(InputError, match="same cutoff"):
        Calculator([models[0], make_model("schnetpack")])
    with pytest.raises(InputError, match="at least one"):
        Calculator([])


def test_model_files_and_further_properties(tmp_path):
    model = make_model("short")
    model = AtomisticModel(model.representation, model.head, {"gap": Atomwise(16)}).double()
    pygschnet.save(model, tmp_path / "model.safetensors")
    atoms = ethanol()
    for given_model in (tmp_path / "model.safetensors", str(tmp_path / "model.safetensors"), [model]):
        calculator = Calculator(given_model)
        calculator.calculate(atoms)
        assert calculator.results["gap"] == pytest.approx(model(graph(atoms, model)).properties["gap"].item())


def test_precision():
    model, atoms = make_model("schnetpack"), ethanol()
    results = {}
    for dtype in (torch.float32, torch.float64):
        calculator = Calculator(make_model("schnetpack"), dtype=dtype)
        calculator.calculate(atoms)
        results[dtype] = calculator.results["forces"]
        assert results[dtype].dtype == np.float64
    exact = model(graph(atoms, model)).forces.detach().numpy()
    assert np.abs(results[torch.float64] - exact).max() < 1e-12
    assert 0 < np.abs(results[torch.float32] - exact).max() < 1e-5 * np.abs(exact).max()


def test_the_model_that_is_given_stays_as_it_is():
    model = make_model("short").float().train()
    Calculator(model, dtype=torch.float64).calculate(ethanol())
    assert model.training and next(model.parameters()).dtype == torch.float32


def test_results_are_kept_until_something_changes(monkeypatch):
    atoms = silicon()
    atoms.calc = Calculator(make_model("short"))
    calls = []
    forward = atoms.calc.models[0].forward
    monkeypatch.setattr(atoms.calc.models[0], "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    energy = atoms.get_potential_energy()
    atoms.get_forces()
    assert len(calls) == 1
    atoms.get_stress()  # has not been asked for before
    atoms.positions[0, 0] += 1e-13
    atoms.get_forces()
    atoms.get_stress()  # but is known to be wanted now
    assert len(calls) == 3
    atoms.set_cell(atoms.cell * 1.01)
    assert atoms.get_potential_energy() != energy and len(calls) == 4
    atoms.pbc = [True, True, False]
    atoms.get_potential_energy()
    atoms.numbers[0] = 6
    atoms.get_potential_energy()
    assert len(calls) == 6


def test_atoms_closer_than_in_training_are_flagged():
    model, atoms = make_model("short"), ethanol()
    model.extend_range(graph(atoms, model))
    atoms.calc = Calculator(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.get_forces()
    assert not atoms.calc.results["too_close"].any()
    bond = atoms.positions[1] - atoms.positions[0]  # C-C
    atoms.positions[1] -= 0.3 * bond
    with pytest.warns(UserWarning, match=r"C \(atom .\) are .* Å apart, and in training such atoms .* extrapolation"):
        atoms.get_forces()
    assert atoms.calc.results["too_close"][:2].all()
    atoms.get_forces()  # says so once only
    far = Atoms("CN", [[0, 0, 0], [0, 0, 1.4]])
    far.calc = Calculator(model)
    with pytest.warns(UserWarning, match="never met"):
        far.get_forces()
    far.positions[1, 2] = 2.6  # beyond the cutoff nobody meets anybody
    far.get_forces()
    assert not far.calc.results["too_close"].any()


def test_optimisers_relax_molecules_and_cells():
    atoms = ethanol()
    atoms.calc = Calculator(steep_model())
    start = atoms.get_potential_energy()
    assert BFGS(atoms, logfile=None).run(fmax=0.01, steps=500)
    assert atoms.get_potential_energy() < start
    crystal = silicon()
    crystal.calc = Calculator(steep_model())
    FIRE(FrechetCellFilter(crystal), logfile=None).run(fmax=1e-3, steps=400)
    assert np.abs(crystal.get_forces()).max() < 0.05 and np.abs(crystal.get_stress()).max() < 1e-3


def test_phonons_of_a_relaxed_crystal_have_three_acoustic_modes(tmp_path):
    atoms = ase.build.bulk("Si")
    calculator = Calculator(make_model("schnetpack"))
    atoms.calc = calculator
    phonons = Phonons(atoms, calculator, supercell=(2, 2, 2), delta=0.01, name=str(tmp_path / "phonons"))
    phonons.run()
    phonons.read(acoustic=True)
    frequencies = np.sort(np.abs(phonons.band_structure(np.zeros((1, 3)), verbose=False)[0]))
    assert (frequencies[:3] < 1e-3 * frequencies[3:].min()).all()


def test_neb_with_one_calculator_for_all_images():
    first, last = ethanol(), ethanol()
    last.rattle(0.1, seed=5)
    images = [first, first.copy(), first.copy(), last]
    band = NEB(images, method="improvedtangent", allow_shared_calculator=True)
    band.interpolate()
    calculator = Calculator(make_model("short"))
    for image in images:
        image.calc = calculator
    forces = band.get_forces()
    alone = images[1].copy()
    alone.calc = Calculator(make_model("short"))
    assert forces.shape == (18, 3) and band.real_forces[1] == pytest.approx(alone.get_forces(), abs=1e-12)


def test_one_atom_and_atoms_far_apart():
    model = make_model("short")
    atoms = Atoms("H")
    atoms.calc = Calculator(model)
    alone = atoms.get_potential_energy()
    assert math.isfinite(alone) and (atoms.get_forces() == 0).all()
    pair = Atoms("H2", [[0, 0, 0], [0, 0, 50]])
    pair.calc = Calculator(model)
    assert pair.get_potential_energy() == pytest.approx(2 * alone) and (pair.get_forces() == 0).all()


def fitted():
    model = make_model("short")
    model.head.fit(torch.tensor([1, 6, 8]), torch.zeros(3, dtype=torch.long), torch.tensor([-3000.0]))
    return model


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms("CSi", [[0, 0, 0], [0, 0, 2]]), "not been trained on Si, only on H, C, O"),
        (Atoms("CO", [[0, 0, 0], [0, 0, 2]], pbc=True), "give lattice vectors that span it"),
        (Atoms("CO", [[0, 0, 0], [0, 0, 2]], cell=[3, 3, 0], pbc=True), "give lattice vectors that span it"),
        (Atoms("CO", [[0, 0, 0], [0, 0, 2]], cell=[[3, 0, 0], [6, 0, 0], [0, 0, 3]], pbc=True), "that span it"),
        (Atoms("CO", [[0, 0, 0], [0, 0, 0]]), "stand on the same spot"),
        (Atoms("CO", [[0, 0, 0], [0, 0, np.nan]]), "not finite"),
        (Atoms(), "without atoms"),
    ],
)
def test_refused(atoms, message):
    atoms.calc = Calculator(fitted())
    with pytest.raises(InputError, match=message):
        atoms.get_forces()


def test_stress_needs_a_crystal():
    atoms = ethanol()
    atoms.calc = Calculator(fitted())
    with pytest.raises(InputError, match="three lattice vectors"):
        atoms.get_stress()
    assert atoms.get_forces().shape == (9, 3)  # which has nothing to do with it


def test_cutoffs_longer_than_sense():
    model = AtomisticModel(SchNet(8, 8, 1, gaussians=8, cutoff=3000.0, cutoff_form="cosine"), Atomwise(8))
    atoms = silicon()
    atoms.calc = Calculator(model)
    with pytest.raises(InputError, match="should be of a few Å"):
        atoms.get_forces()
    with pytest.raises(InputError, match="skin must not be negative"):
        Calculator(model, skin=-1.0)


def run_nve(time_step, steps):
    atoms = ethanol()
    atoms.calc = Calculator(make_model("short"))
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=300)
    thermalise(atoms, 300.0, np.random.default_rng(0))
    energies = []
    dynamics = VelocityVerlet(atoms, time_step * units.fs)
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
    dynamics.run(steps)
    return np.array(energies), atoms


def test_dynamics_keep_energy_and_momentum_and_are_of_second_order():
    coarse, atoms = run_nve(1.0, 150)
    fine, _ = run_nve(0.5, 300)
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-10
    assert np.ptp(coarse) < 0.02
    assert np.std(coarse) / np.std(fine) == pytest.approx(4.0, rel=0.15)
