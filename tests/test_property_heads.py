"""Spatial extent and polarisability: symmetries, sums by hand, and that they can be learnt."""

import ase.io
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from ase import units
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

import pygschnet
from pygschnet import AtomisticModel, Atomwise, Calculator, InputError, SchNet
from pygschnet.datasets import Files
from pygschnet.heads import Polarisability, SpatialExtent
from pygschnet.predict import predict
from pygschnet.training import AtomisticModule
from tests.structures import SHARED, bare, batch_of, ethanol, graph, molecules, randomise, rotations, steep_model

laws = settings(max_examples=10, deadline=None)


def model_with(scale: float = 3.0) -> AtomisticModel:
    """With heads of all kinds, the two of polarisabilities with the same weights."""
    model = steep_model()
    heads = {
        "extent": SpatialExtent(16, scale=scale),
        "alpha": Polarisability(16, scale=scale),
        "third": Polarisability(16, isotropic=True, scale=scale),
    }
    for name, head in heads.items():
        randomise(head, seed=2 if name == "extent" else 3)
    return AtomisticModel(model.representation, model.head, heads).double().eval()


MODEL = model_with()


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@laws
@given(molecule=molecules(), rotation=rotations(), seed=st.integers(0, 1000))
def test_symmetries(molecule, rotation, seed):
    before = MODEL(bare(molecule.z, molecule.pos, MODEL))
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(molecule.z)))
    moved = (molecule.pos @ rotation.T + torch.tensor([100.0, -30.0, 7.0], dtype=torch.float64))[order]
    after = MODEL(bare(molecule.z[order], moved, MODEL))
    alpha = before.properties["alpha"]
    close(after.properties["alpha"], rotation @ alpha @ rotation.T, 1e-8)
    assert torch.equal(alpha, alpha.mT)
    for name in ("extent", "third"):
        close(after.properties[name], before.properties[name], 1e-8)
    for name in MODEL.properties:
        close(after.atomic_properties[name], before.atomic_properties[name][order], 1e-8)
        total = alpha.diagonal(dim1=1, dim2=2).mean(1) if name == "alpha" else before.properties[name]
        close(before.atomic_properties[name].sum(), total[0])
    close(before.properties["third"], alpha.diagonal(dim1=1, dim2=2).mean(1))


@laws
@given(pieces=st.lists(molecules(), min_size=1, max_size=4))
def test_batches_are_singles(pieces):
    together, apart = MODEL(batch_of(pieces, MODEL)), [MODEL(bare(one.z, one.pos, MODEL)) for one in pieces]
    for name in MODEL.properties:
        close(together.properties[name], torch.cat([one.properties[name] for one in apart]))
        close(together.atomic_properties[name], torch.cat([one.atomic_properties[name] for one in apart]))


def test_sums_by_hand():
    """Σ_i q_i ‖r_i − r_0‖² + s_i and Σ_i s_i 1 + q_i (r_i − r_0)(r_i − r_0)ᵀ, with the centre of mass from ASE."""
    atoms = ethanol()
    data = graph(atoms, MODEL)
    found, x = MODEL(data), MODEL.representation(data).detach().numpy()
    arms = atoms.positions - atoms.get_center_of_mass()
    for name in ("extent", "alpha"):
        head = MODEL.properties[name]
        a, b, w, c = (p.detach().numpy() for p in head.parameters())
        q, s = 3.0 * (np.logaddexp(0, x @ a.T + b) - np.log(2)).dot(w.T).T + 3.0 * c[:, None]
        if name == "extent":
            expected = q @ (arms**2).sum(1) + s.sum()
        else:
            expected = sum(s[i] * np.eye(3) + q[i] * np.outer(arms[i], arms[i]) for i in range(9))
        np.testing.assert_allclose(found.properties[name][0].detach().numpy(), expected, rtol=1e-10)
    assert min(np.abs(q).max(), np.abs(s).max()) > 0.1


def test_twice_differentiable():
    data = graph(molecule("H2O"), MODEL)
    data.pos.requires_grad_()

    def properties(pos):
        moved = data.clone()
        moved.pos = pos
        found = MODEL(moved, forces=False).properties
        return found["extent"], found["alpha"]

    assert torch.autograd.gradcheck(properties, data.pos, fast_mode=True)
    assert torch.autograd.gradgradcheck(properties, data.pos, fast_mode=True)
    alone = graph(molecule("H2O")[:1], MODEL)  # at the centre of mass: s_i only
    alone.pos.requires_grad_()
    found = MODEL(alone, forces=False).properties
    assert torch.autograd.grad(found["extent"] + found["alpha"].sum(), alone.pos)[0].abs().max() == 0


def test_what_is_refused():
    numbers, vectors, tensors = torch.ones(2), torch.ones(2, 3), torch.arange(18.0).reshape(2, 3, 3)
    assert SpatialExtent(8).label(numbers) is numbers
    assert Polarisability(8).label(tensors) is tensors
    assert Polarisability(8, isotropic=True).label(tensors).tolist() == [4.0, 13.0]
    assert Polarisability(8, isotropic=True).label(numbers) is numbers
    for head, labels, said in (
        (SpatialExtent(8), vectors, r"⟨R²⟩ is one number per molecule, the labels have the shape \[2, 3\]"),
        (Polarisability(8), vectors, r"three times three components, the labels have the shape \[2, 3\]$"),
        (Polarisability(8), numbers, r"shape \[2\]; for a third of the trace set isotropic to true"),
        (Polarisability(8, isotropic=True), vectors, r"shape \[2, 3\]$"),
    ):
        with pytest.raises(InputError, match=said):
            head.label(labels)
    schnet = steep_model()
    for head, said in ((SpatialExtent(16), "extent of a crystal"), (Polarisability(16), "polarisability of a crystal")):
        model = AtomisticModel(schnet.representation, schnet.head, {"property": head}).double()
        with pytest.raises(
            InputError, match=f"{said} is not defined: use a model without a {type(head).__name__} head"
        ):
            model(graph(bulk("Si"), model))


def test_the_scale():
    """The mean per atom of the labels, or of a third of their traces; or what was given."""
    z, batch = torch.tensor([8, 1, 1, 6]), torch.tensor([0, 0, 0, 1])
    tensors = torch.stack([torch.eye(3) * 6.0, torch.diag(torch.tensor([1.0, 2.0, 9.0]))])
    for head, label in ((SpatialExtent(8), torch.tensor([6.0, 4.0])), (Polarisability(8), tensors)):
        head.fit(z, batch, label)
        assert head.sigma.item() == pytest.approx((6 / 3 + 4 / 1) / 2)
        assert head.elements.nonzero().flatten().tolist() == [1, 6, 8]
    given = SpatialExtent(8, scale=5.0)
    given.fit(z, batch, torch.tensor([6.0, 4.0]))
    assert given.sigma.item() == 5.0


def trained(frames: list[Data], folder, heads, steps: int) -> AtomisticModule:
    schnet = SchNet(16, 16, 2, gaussians=20, gaussian_stop=5.0, gamma=None, cutoff=5.0, cutoff_form="cosine")
    descent = {
        "optimizer": lambda parameters: torch.optim.Adam(parameters, 1e-2),
        "scheduler": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
    }
    module = AtomisticModule(schnet, Atomwise(16), rho=0.0, energy_weight=0.0, properties=heads, **descent)
    run = pl.Trainer(default_root_dir=folder, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                     enable_model_summary=False, accelerator="cpu", max_steps=steps, log_every_n_steps=1)  # fmt: skip
    run.fit(module, DataLoader(frames, 20, shuffle=True))
    return module


def dipoles_that_induce_each_other(atoms) -> np.ndarray:
    """The polarisability, in Å³, of polarisable points in each other's fields.

    Source: Applequist, Carl and Fung, J. Am. Chem. Soc. 94, 2952 (1972).
    """
    n, of_elements = len(atoms), {1: 0.1, 6: 0.6, 8: 0.3}
    matrix = np.zeros((n, 3, n, 3))
    for i in range(n):
        matrix[i, :, i] = np.eye(3) / of_elements[atoms.numbers[i]]
        for j in range(n):
            if i != j:
                r = atoms.positions[j] - atoms.positions[i]
                d = np.linalg.norm(r)
                matrix[i, :, j] = np.eye(3) / d**3 - 3 * np.outer(r, r) / d**5
    return np.linalg.inv(matrix.reshape(3 * n, 3 * n)).reshape(n, 3, n, 3).sum(axis=(0, 2))


def frames_with_tensors(turn: int) -> list[Data]:
    """Molecules, turned in one of several ways, with tensors, thirds of their traces, and tensors as labels of such."""
    frames = []
    for number, name in enumerate(("CH4", "C2H6", "C2H4", "C2H2", "CH3OH", "H2O", "C6H6", "CH3CH2OH", "H2CO", "CO2")):
        atoms = molecule(name)
        atoms.rotate(37 * (number + 1) * turn, (1, number % 3, 2))
        data = graph(atoms, MODEL)
        data.alpha = torch.from_numpy(dipoles_that_induce_each_other(atoms)).unsqueeze(0)
        data.third = data.alpha.diagonal(dim1=1, dim2=2).mean(1)
        data.traced, data.energy = data.alpha, torch.zeros(1, dtype=torch.float64)
        frames.append(data)
    return frames


def test_tensors_are_learnt(tmp_path):
    """Those of a model of physics, as tensors and as thirds of traces, of molecules turned otherwise; then files."""
    torch.manual_seed(0)
    heads = {"alpha": Polarisability(16), "traced": Polarisability(16, isotropic=True)}
    module = trained(frames_with_tensors(1), tmp_path, heads, 250)
    held_out = Batch.from_data_list(frames_with_tensors(2))
    with torch.no_grad():
        found = module.averaged.eval()(held_out, forces=False)
    labels = module.model.labels(held_out)
    close(labels["traced"], held_out.third)
    mean_tensor = held_out.third.mean() * torch.eye(3)
    scale_of_tensors = (held_out.alpha - mean_tensor).square().mean().sqrt()
    close(module.property_scales, torch.stack([scale_of_tensors, held_out.third.std(correction=0)]), 1e-6)
    isotropic = held_out.third.view(-1, 1, 1) * torch.eye(3)
    spread = (held_out.alpha - isotropic).square().mean().sqrt()  # what is lost without directions
    assert (found.properties["alpha"] - held_out.alpha).square().mean().sqrt() < 0.3 * spread
    expected = sum(
        ((found.properties[name] - labels[name]) / scale).square().reshape(10, -1).sum(1)
        for name, scale in zip(heads, module.property_scales, strict=True)
    )
    close(module.losses(found, held_out), expected)
    for name in heads:
        module.errors["val"].add(found, labels, expected)
        error = (found.properties[name] - labels[name]).abs().mean()
        assert module.errors["val"][f"{name}_mae"].compute().item() == pytest.approx(error.item())
    pygschnet.save(module.averaged, tmp_path / "model.safetensors")
    again = pygschnet.load(tmp_path / "model.safetensors")
    assert again.properties["traced"].isotropic and not again.properties["alpha"].isotropic
    with torch.no_grad():
        torch.testing.assert_close(again(held_out, forces=False), found, rtol=0, atol=0)
    atoms = molecule("CH3CH2OH")
    atoms.calc = Calculator(again)
    atoms.get_potential_energy()
    assert atoms.calc.results["alpha"].shape == (3, 3)
    atoms.calc = None
    atoms.write(tmp_path / "ethanol.extxyz")
    for out in ("out.npz", "out.extxyz"):
        predict(str(tmp_path / "model.safetensors"), str(tmp_path / "ethanol.extxyz"), str(tmp_path / out))
    with np.load(tmp_path / "out.npz") as file:
        assert file["alpha"].shape == (1, 3, 3)
        np.testing.assert_allclose(ase.io.read(tmp_path / "out.extxyz").info["alpha"], file["alpha"][0], atol=1e-6)


def test_files_hold_tensors(tmp_path):
    """npz and extended xyz give the tensors in Å³, and what they are called."""
    atoms = [ethanol(seed) for seed in range(3)]
    tensors = np.stack([dipoles_that_induce_each_other(each) for each in atoms])
    for each, tensor in zip(atoms, tensors, strict=True):
        each.info |= {"alpha": tensor / units.Bohr**3, "energy": 0.0}
    ase.io.write(tmp_path / "frames.extxyz", atoms)
    np.savez(tmp_path / "frames.npz", z=atoms[0].numbers, R=np.stack([each.positions for each in atoms]),
             E=np.zeros(3), alpha=tensors / units.Bohr**3)  # fmt: skip
    for name in ("frames.extxyz", "frames.npz"):
        data = Files(str(tmp_path / name), keys={"alpha": "alpha"}, units={"alpha": "a0^3"}, cutoff=5.0)
        data.setup("predict")
        np.testing.assert_allclose(data.molecules.batch([0, 1, 2]).alpha.numpy(), tensors, rtol=1e-6)


@pytest.mark.skipif(not SHARED.exists(), reason="no reference data beside the repository")
def test_molecules_of_qm9(tmp_path):
    """Of the first hundred molecules of QM9, 80 to learn from: errors of the others far below the mean's."""
    frames = []
    for atoms in ase.io.read(SHARED / "qm9_samples" / "qm9_reduced_100_allprops.xyz", ":"):
        data = graph(atoms, MODEL)
        data.energy = torch.zeros(1, dtype=torch.float64)
        for name, key in (("extent", "<R2>"), ("alpha", "alpha")):
            data[name] = torch.tensor([float(atoms.info[key])], dtype=torch.float64)
        frames.append(data)
    order = np.random.default_rng(0).permutation(len(frames))
    training, others = ([frames[k] for k in part] for part in (order[:80], order[80:]))
    torch.manual_seed(0)
    heads = {"extent": SpatialExtent(16), "alpha": Polarisability(16, isotropic=True)}
    module = trained(training, tmp_path, heads, 400)
    held_out = Batch.from_data_list(others)
    with torch.no_grad():
        found = module.averaged.eval()(held_out, forces=False).properties
    for name in heads:
        mean = Batch.from_data_list(training)[name].mean()
        error, of_mean = (found[name] - held_out[name]).abs().mean(), (mean - held_out[name]).abs().mean()
        assert error < 0.3 * of_mean, name
