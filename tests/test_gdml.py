"""GDML against automatic differentiation of its kernel, its published formula, and force fields of the sGDML code."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

import pygschnet
from pygschnet import AtomisticModel, Calculator, InputError
from pygschnet.convert import from_foreign
from pygschnet.gdml import GDML, GDMLRegressor
from pygschnet.gdml.descriptor import descriptors, jacobians
from pygschnet.gdml.kernel import assemble
from pygschnet.gdml.permutations import LARGEST, closure, recover
from pygschnet.gdml.solve import needed_gigabytes, solve
from pygschnet.heads import Sum
from tests.structures import EQUIVALENT, SHARED, ethanol, graph, shuffled_ethanol

REFERENCES = SHARED / "sgdml_ref_models"
KCAL = pygschnet.units.unit_factor("kcal/mol")
GROUP = closure({tuple(order) for order in EQUIVALENT})


def fitted(symmetric=False, frames=10, sigmas=(5.0,), energy=False, seed=0, **others) -> GDML:
    gdml = GDML(symmetric, sigmas, **others)
    batch = Batch.from_data_list(shuffled_ethanol(frames, seed))
    if not energy:
        del batch.energy
    gdml.fit([batch], [Batch.from_data_list(shuffled_ethanol(6, 7))])
    return gdml


def arrays(frames):
    return (torch.stack([frame[name] for frame in frames]).numpy() for name in ("pos", "forces"))


def random_positions(frames, atoms, seed=0):
    return 1.5 * torch.randn(frames, atoms, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("permutations", [[[0, 1, 2, 3]], [[0, 1, 2, 3], [1, 2, 0, 3], [2, 0, 1, 3]]])
def test_kernel_is_the_covariance_of_forces(permutations):
    """Second derivatives of Matérn's kernel of descriptors, by automatic differentiation."""
    pos, sigma = random_positions(3, 4), 1.3

    def kernel(r, s):
        total = 0.0
        for order in permutations:
            delta = descriptors(r.view(1, 4, 3)) - descriptors(s.view(4, 3)[order].unsqueeze(0))
            u = 5**0.5 / sigma * delta.norm()
            total = total + (1 + u + u**2 / 3) * torch.exp(-u)
        return total

    matrix = torch.empty(36, 36, dtype=torch.float64)
    assemble(matrix, descriptors(pos), jacobians(pos), torch.tensor(permutations), sigma)
    for i, j in itertools.permutations(range(3), 2):
        expected = torch.func.jacrev(torch.func.jacrev(kernel), 1)(pos[i].flatten(), pos[j].flatten())
        torch.testing.assert_close(matrix[12 * i :, 12 * j :][:12, :12], expected, rtol=1e-12, atol=1e-12)
    moved = pos[0].flatten() + 1e-6 * torch.arange(12)  # at δ = 0, where the kernel has no derivative by autograd
    expected = torch.func.jacrev(torch.func.jacrev(kernel), 1)(pos[0].flatten(), moved)
    torch.testing.assert_close(matrix[:12, :12], expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-12, atol=1e-12)
    values = torch.linalg.eigvalsh(matrix)
    assert values[0] > -1e-12 * values[-1] and (values < 1e-9 * values[-1]).sum() >= 3 * 6  # rank N (3n − 6) at most


@pytest.mark.parametrize("symmetric", [False, True])
def test_training_forces_are_interpolated_as_regularisation_vanishes(symmetric):
    frames = shuffled_ethanol(10)
    pos, forces = (torch.from_numpy(array) for array in arrays(frames))
    errors = []
    for regularisation in (1e-2, 1e-5, 1e-10):
        predicted = fitted(symmetric, regularisation=regularisation).forces(pos)
        errors.append((predicted - forces).abs().max().item())
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-4 * forces.abs().max()


def test_energy_differences():
    """Of frames near those of training, from forces alone; the constant then makes energies of them."""
    gdml, frames = fitted(True, 60, energy=True), shuffled_ethanol(20, seed=3)
    predicted = gdml.atomic_energies(torch.stack([frame.pos for frame in frames])).sum(1)
    energy = torch.cat([frame.energy for frame in frames])
    assert torch.corrcoef(torch.stack([predicted, energy]))[0, 1] > 0.9
    training = shuffled_ethanol(60)
    integrated = gdml.atomic_energies(torch.stack([frame.pos for frame in training])).sum(1)
    assert abs((integrated - torch.cat([frame.energy for frame in training])).mean()) < 1e-9


@pytest.mark.parametrize("symmetric", [False, True])
def test_equivalent_atoms(symmetric):
    """sGDML does not tell them apart, GDML does."""
    gdml = fitted(symmetric)
    pos = torch.from_numpy(ethanol(99).positions).unsqueeze(0)
    energies = torch.stack([gdml.atomic_energies(pos[:, order]).sum() for order in GROUP])
    spread = (energies - energies[0]).abs().max().item()
    assert len(GROUP) == 6
    assert spread < 1e-9 if symmetric else spread > 1e-3


def test_permutations_are_recovered():
    pos, _ = arrays(shuffled_ethanol(40))
    found = recover(np.array(ethanol().numbers), pos)
    assert {tuple(order) for order in found.tolist()} == GROUP and found[0].tolist() == list(range(9))
    assert len(recover(np.arange(1, 10), pos)) == 1  # were they all different elements


def test_groups_that_are_too_large_are_not_believed():
    rng, frame = np.random.default_rng(0), np.random.default_rng(1).normal(size=(6, 3))
    pos = np.stack([frame[rng.permutation(6)] for _ in range(30)]) + rng.normal(scale=1e-3, size=(30, 6, 3))
    with pytest.warns(UserWarning, match="is left out: with it there would be more than 100"):
        found = recover(np.full(6, 1), pos)
    assert 1 <= len(found) <= LARGEST
    assert closure({tuple(order) for order in found.tolist()}) == {tuple(order) for order in found.tolist()}


@pytest.mark.parametrize("frames", [1, 10])
def test_derivatives_at_training_frames(frames):
    """There u = 0, of one frame exactly so: forces and Hessian are finite, and those of points nearby."""
    gdml = fitted(True, frames)
    pos = shuffled_ethanol(1)[0].pos.unsqueeze(0)

    def energy(r):
        return gdml.atomic_energies(r.view(1, 9, 3)).sum()

    for r in (pos, pos + 1e-7):
        hessian = torch.autograd.functional.hessian(energy, r.flatten())
        assert hessian.isfinite().all() and hessian.abs().max() > 1e-3
        shift = 1e-4 * torch.randn(27, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        change = gdml.forces((r.flatten() + shift).view(1, 9, 3)) - gdml.forces((r.flatten() - shift).view(1, 9, 3))
        torch.testing.assert_close(change.flatten(), -2 * hessian @ shift, rtol=1e-3, atol=1e-5)


def test_atomic_energies_have_the_right_gradient():
    """Not only their sum has: explanations weight them."""
    gdml, pos = fitted(), torch.from_numpy(ethanol(5).positions).unsqueeze(0).requires_grad_()
    assert torch.autograd.gradcheck(gdml.atomic_energies, pos)
    assert torch.autograd.gradgradcheck(gdml.atomic_energies, pos)


def published(file, pos):
    """Energies and forces with the formula of the sGDML code, in its units and sign, without matrix products."""
    points, directions = file["Rt_desc"].T, file["Rt_d_desc_alpha"][:, :, 0]
    sigma, permutations = float(file["sig"]), len(file["perms"])
    points, directions = (
        np.tile(part, permutations)[:, file["tril_perms_lin"]].reshape(len(part), -1, permutations)
        .transpose(0, 2, 1).reshape(-1, part.shape[1]) for part in (points, directions)
    )  # fmt: skip
    i, j = np.tril_indices(len(file["z"]), -1)
    energies, forces = [], []
    for frame in pos:
        vectors = frame[i] - frame[j]
        inverse = 1 / np.linalg.norm(vectors, axis=1)
        delta = inverse - points
        u = np.sqrt(5) / sigma * np.linalg.norm(delta, axis=1)
        along, base = (delta * directions).sum(1), 5 / (3 * sigma**2) * np.exp(-u)
        energies.append((base * (1 + u) * along).sum() + float(file["c"]))
        slope = (base * (1 + u)) @ directions - 5 / sigma**2 * (base * along) @ delta
        pulls = (slope * inverse**3)[:, None] * vectors
        force = np.zeros_like(frame)
        np.add.at(force, i, pulls)
        np.add.at(force, j, -pulls)
        forces.append(force)
    return np.array(energies), np.array(forces)


@pytest.mark.skipif(not REFERENCES.is_dir(), reason="the sGDML force fields are not here")
@pytest.mark.parametrize("name", ["ethanol", "toluene", "naphthalene", "aspirin"])
def test_force_fields_of_the_sgdml_code(name):
    """The same numbers as its formula, errors as stated in the file, and the same permutations from MD17's frames."""
    model = from_foreign(REFERENCES / f"{name}.npz", energy_unit="kcal/mol").model
    with (
        np.load(REFERENCES / f"{name}.npz", allow_pickle=False) as file,
        np.load(SHARED / "md17" / f"{name}.npz", allow_pickle=False) as data,
    ):
        rows = data["test_01"][:20]
        pos, energies, forces = (data[key][rows].astype(float) for key in ("coords", "old_energies", "old_forces"))
        expected, stated = published(file, pos), (float(file["e_mae"]), float(file["f_mae"]))
        z, group = (
            data["nuclear_charges"].astype(int),
            {tuple(p) for p in (file["perms"] - file["perms"].min()).tolist()},
        )
        some = data["coords"][data["train_01"][:100]].astype(float)
    prediction = model.representation.atomic_energies(torch.from_numpy(pos)).sum(1)
    found = (prediction.detach().numpy() / KCAL, model.representation.forces(torch.from_numpy(pos)).numpy() / KCAL)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-6 * np.abs(expected[1]).max())
    for got, label, mae in zip(found, (energies, forces), stated, strict=True):
        assert np.abs(got - label).mean() < 1.6 * mae
    assert {tuple(order) for order in recover(z, some).tolist()} == group


def test_model_files_checkpoints_and_calculator(tmp_path):
    model = AtomisticModel(fitted(True), Sum()).eval()
    data = graph(ethanol(3), model)
    model.head.fit(data.z, torch.zeros_like(data.z), torch.zeros(1).double())
    model.extend_range(data)
    pygschnet.save(model, tmp_path / "gdml.safetensors")
    unfitted = AtomisticModel(GDML(), Sum())
    assert not unfitted.representation.fitted
    unfitted.load_state_dict(model.state_dict())  # as Lightning does
    for other in (pygschnet.load(tmp_path / "gdml.safetensors"), unfitted, copy.deepcopy(model).float()):
        assert torch.equal(other(data).forces, model(data).forces) and other.representation.fitted
    atoms = ethanol(3)
    atoms.calc = Calculator(tmp_path / "gdml.safetensors")
    np.testing.assert_allclose(atoms.get_forces(), model(data).forces.detach().numpy(), atol=1e-12)
    assert atoms.get_potential_energy() == pytest.approx(model(data).energy.item(), abs=1e-12)


def test_sigma_is_chosen_on_validation_forces(capsys):
    gdml = fitted(True, 20, sigmas=[8.0, 0.2, 3.0, 40.0])
    pos, forces = (torch.from_numpy(array) for array in arrays(shuffled_ethanol(6, 7)))
    errors = [(fitted(True, 20, sigmas=[s]).forces(pos) - forces).square().mean().sqrt() for s in (0.2, 3.0, 8.0)]
    assert float(gdml.sigma) == 3.0 and errors[1] < errors[2] < errors[0]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[1].startswith(f"σ = 3 1/Å: RMSE of the validation forces {errors[1]:.5f} eV/Å")
    with pytest.warns(UserWarning, match="is at the end"):
        fitted(True, 20, sigmas=[0.2, 0.1])


def test_refusal_of_too_much_memory():
    with pytest.raises(
        InputError, match=r"10 frames of 9 atoms take .* GB, of which 0.001 GB are allowed .* train on \d"
    ):
        fitted(max_gigabytes=0.001)
    assert needed_gigabytes(950, 9, 6) == pytest.approx(8 * 25650**2 / 1e9, rel=0.1)


def test_singular_matrices_are_regularised_further():
    frame = shuffled_ethanol(1)
    gdml = GDML(sigmas=[5.0], regularisation=0.0)
    with pytest.warns(UserWarning, match="is not positive definite to rounding: .* was taken instead"):
        gdml.fit([Batch.from_data_list(frame + frame)], [])
    torch.testing.assert_close(gdml.forces(frame[0].pos.unsqueeze(0))[0], frame[0].forces, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [5, 512, 1300])
def test_solution_in_place(size):
    generator = torch.Generator().manual_seed(size)
    root = torch.randn(size, size, dtype=torch.float64, generator=generator)
    matrix, y = root @ root.T + torch.eye(size), torch.randn(size, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(solve(matrix.clone(), y, 1e-3), torch.linalg.solve(matrix + 1e-3 * torch.eye(size), y))
    indefinite = matrix - 2 * torch.linalg.eigvalsh(matrix)[-1] * torch.eye(size)
    with pytest.raises(InputError, match="cannot be decomposed"):
        solve(indefinite, y, 1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frames: [frame.pop("forces") for frame in frames], "the training data have none"),
        (lambda frames: frames[3].update({"z": frames[3].z.flip(0)}), "atoms in different orders"),
        (lambda frames: frames.clear(), "there are no training data"),
    ],
)  # fmt: skip
def test_broken_data(change, message):
    frames = shuffled_ethanol(6)
    change(frames)
    with pytest.raises(InputError, match=message):
        GDML(sigmas=[5.0]).fit([Batch.from_data_list(frames)] if frames else [], [])


def test_other_broken_data():
    atom = Data(z=torch.tensor([6]), pos=torch.zeros(1, 3).double(), forces=torch.zeros(1, 3).double())
    with pytest.raises(InputError, match="there is only one atom"):
        GDML(sigmas=[5.0]).fit([Batch.from_data_list([atom])], [])
    with pytest.raises(InputError, match="there are no validation data: give one σ alone"):
        GDML().fit([Batch.from_data_list(shuffled_ethanol(3))], [])
    crystal = Batch.from_data_list([*shuffled_ethanol(2)])
    crystal.cell, crystal.pbc = 9 * torch.eye(3).double().expand(2, 3, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(InputError, match="are crystals"):
        GDML(sigmas=[5.0]).fit([crystal], [])
    for wrong, message in (({"sigmas": []}, "sigmas must be"), ({"regularisation": -1.0}, "must not be negative")):
        with pytest.raises(InputError, match=message):
            GDML(**wrong)
    with pytest.raises(InputError, match="has not been trained"):
        AtomisticModel(GDML(), Sum())(graph(ethanol(), AtomisticModel(GDML(), Sum())))
    model = AtomisticModel(fitted(), Sum())
    with pytest.raises(InputError, match="force field of CCOHHHHHH .* and given was HHHHHHOCC"):
        model(graph(ethanol()[::-1], model))
    with pytest.raises(InputError, match="force field of CCOHHHHHH"):  # twice the atoms, in one molecule
        apart = ethanol(1)
        apart.translate([50.0, 0, 0])
        model(graph(ethanol() + apart, model))
    cut = graph(ethanol() + apart, model)  # the right atoms, of molecules that begin elsewhere
    cut.batch, cut.ptr = (torch.arange(18) > 9).long(), torch.tensor([0, 10, 18])
    with pytest.raises(InputError, match="force field of CCOHHHHHH"):
        model(cut)


def test_labels_that_contradict_each_other():
    frames = shuffled_ethanol(60)
    batch = Batch.from_data_list(frames)
    batch.forces = -batch.forces
    with pytest.raises(InputError, match="seem to be gradients"):
        GDML(True, [5.0]).fit([batch], [])
    batch.forces = -batch.forces / KCAL
    with pytest.warns(UserWarning, match="energies change 0.04 times as much as the forces"):
        GDML(True, [5.0]).fit([batch], [])
    batch.energy = batch.energy[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    with pytest.warns(UserWarning, match="hardly agree: their correlation is"):
        GDML(True, [5.0]).fit([batch], [])


def test_regressor_in_the_hands_of_scikit_learn():
    model_selection, base = pytest.importorskip("sklearn.model_selection"), pytest.importorskip("sklearn.base")
    X, y = arrays(shuffled_ethanol(40))
    regressor = GDMLRegressor(ethanol().numbers.tolist(), symmetric=True, sigmas=[5.0], regularisation=1e-8)
    assert base.clone(regressor).get_params() == regressor.get_params()
    folds = model_selection.KFold(4)
    scores = model_selection.cross_val_score(regressor, X, y, cv=folds)
    train, test = next(folds.split(X))
    assert scores[0] == pytest.approx(regressor.fit(X[train], y[train]).score(X[test], y[test]))
    search = model_selection.GridSearchCV(regressor, {"sigmas": [[1.0], [8.0]]}, cv=folds, error_score="raise").fit(
        X, y
    )
    assert search.best_params_ == {"sigmas": [8.0]} and search.best_estimator_.sigma_ == 8.0
    assert search.cv_results_["mean_test_score"][1] > search.cv_results_["mean_test_score"][0]


def test_regressor():
    frames = shuffled_ethanol(60)
    (X, y), energies = arrays(frames), np.array([frame.energy.item() for frame in frames])
    regressor = GDMLRegressor(ethanol().numbers.tolist(), symmetric=True, sigmas=[5.0])
    assert regressor.fit(X, y) is regressor and regressor.score(X, y) > 0.999
    assert regressor.sigma_ == 5.0 and regressor.predict(X).shape == y.shape
    regressor.fit(X, y, energies)
    assert (regressor.predict_energy(X) - energies).mean() == pytest.approx(0, abs=1e-9)
    model = regressor.model_
    assert model(graph(ethanol(4), model)).energy.item() == pytest.approx(
        regressor.predict_energy(ethanol(4).positions[None])[0], abs=1e-10
    )
    assert model.closest[1, 6] == pytest.approx(np.linalg.norm(X[:, :1] - X[:, 3:], axis=-1).min(), rel=0.2)
    with pytest.raises(InputError, match="no such argument, only z, symmetric"):
        regressor.set_params(sigma=3.0)
    with pytest.raises(InputError, match=r"shape \[frames, 9, 3\], not \[60, 27\]"):
        regressor.predict(X.reshape(60, 27))
    with pytest.raises(InputError, match="call fit first"):
        GDMLRegressor([1, 1]).predict(X)
