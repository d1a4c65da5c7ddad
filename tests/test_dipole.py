"""Dipoles of latent charges: their symmetries, the conservation of charge, and that they can be learnt."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

import pygschnet
from pygschnet import AtomisticModel, Atomwise, Calculator, Dipole, InputError, RadiusGraph, SchNet
from pygschnet.datasets import Files
from pygschnet.predict import predict
from pygschnet.training import AtomisticModule
from tests.structures import SHARED, bare, batch_of, ethanol, graph, molecules, randomise, rotations, steep_model

laws = settings(max_examples=15, deadline=None)
charges_of_molecules = st.sampled_from([None, 0.0, 1.0, -2.0])


def model_with(**heads: bool) -> AtomisticModel:
    """With Dipole heads by their names, true for magnitudes; random, with charges of about 1 e."""
    model = steep_model()
    properties = {name: randomise(Dipole(16, magnitude=magnitude), seed=2) for name, magnitude in heads.items()}
    for head in properties.values():
        head.dense_2.weight.data *= 20
    return AtomisticModel(model.representation, model.head, properties).double().eval()


def charged(data: Data, charge: float | None) -> Data:
    data = data.clone()
    if charge is not None:
        data.charge = torch.tensor([charge], dtype=torch.float64)
    return data


MODEL = model_with(dipole=False, mu=True)


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@laws
@given(molecule=molecules(low=2), charge=charges_of_molecules, rotation=rotations(), seed=st.integers(0, 1000))
def test_symmetries(molecule, charge, rotation, seed):
    """Of shifts, also of ions; of rotations and reflections; of the order of atoms."""
    before = MODEL(bare(molecule.z, molecule.pos, MODEL).update(charged(molecule, charge).to_dict()))
    dipole, charges = before.properties["dipole"], before.atomic_properties["dipole"]
    close(before.properties["mu"], (dipole.square().sum(-1) + 1e-12).sqrt())
    shift = torch.tensor([100.0, -30.0, 7.0], dtype=torch.float64)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(molecule.z)))
    moved = Data(z=molecule.z[order], pos=(molecule.pos @ rotation.T + shift)[order])
    after = MODEL(RadiusGraph(MODEL.cutoff)(charged(moved, charge)))
    close(after.properties["dipole"], dipole @ rotation.T, 1e-9)
    close(after.properties["mu"], before.properties["mu"], 1e-9)
    close(after.atomic_properties["dipole"], charges[order])


@laws
@given(pieces=st.lists(st.tuples(molecules(), st.sampled_from([0.0, 1.0, -2.0])), min_size=1, max_size=4))
def test_charge_is_conserved_and_batches_are_singles(pieces):
    singles = [charged(data, charge) for data, charge in pieces]
    together = MODEL(batch_of(singles, MODEL))
    sums = torch.stack([part.sum() for part in together.atomic_properties["dipole"].split([len(s.z) for s in singles])])
    close(sums, torch.tensor([charge for _, charge in pieces], dtype=torch.float64), 1e-12)
    apart = [MODEL(RadiusGraph(MODEL.cutoff)(single)) for single in singles]
    for name in ("dipole", "mu"):
        close(together.properties[name], torch.cat([one.properties[name] for one in apart]))
        close(together.atomic_properties[name], torch.cat([one.atomic_properties[name] for one in apart]))


def test_the_sum_over_charges_by_hand():
    """μ of an ion about its centre of mass; in float32 charges still add up to what float64 can hold."""
    atoms = molecule("CH3CH2OH")
    atoms.info["charge"] = 1
    for model, tolerance in ((MODEL, 1e-12), (model_with(dipole=False).float(), 1e-12)):
        found = model(graph(atoms, model))
        charges = found.atomic_properties["dipole"].detach().numpy()
        assert abs(charges.sum() - 1) < tolerance and charges.std() > 0.05
        expected = charges @ (atoms.positions - atoms.get_center_of_mass())
        np.testing.assert_allclose(found.properties["dipole"][0].detach().numpy(), expected, atol=1e-12)
        latent = charges - charges.mean()  # what the network says of the differences does not depend on the charge
        del atoms.info["charge"]
        neutral = model(graph(atoms, model)).atomic_properties["dipole"].detach().numpy()
        np.testing.assert_allclose(neutral, latent, atol=1e-12)
        atoms.info["charge"] = 1


def test_magnitudes_do_not_tell_the_sign():
    """Negating the last layer turns the sign of all charges of a neutral molecule, and leaves the magnitude alone."""
    model, data = model_with(dipole=False, mu=True), graph(ethanol(), MODEL)
    before = model(data)
    for head in model.properties.values():
        head.dense_2.weight.data.neg_()
    after = model(data)
    close(after.properties["mu"], before.properties["mu"])
    close(after.properties["dipole"], -before.properties["dipole"])
    close(after.atomic_properties["mu"], -before.atomic_properties["mu"])


def test_no_dipole_by_symmetry():
    """Methane has none; there the magnitude is ε and its derivatives are finite, elsewhere it is the magnitude."""
    atoms = molecule("CH4")
    data = graph(atoms, MODEL)
    data.pos = data.pos.requires_grad_()
    found = MODEL(data)
    assert found.atomic_properties["mu"][0].abs() > 0.05
    assert found.properties["dipole"].abs().max() < 1e-12 and found.properties["mu"].item() < 1.1e-6
    first = torch.autograd.grad(found.properties["mu"].sum(), data.pos, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum() + first.sum(), data.pos)[0]
    assert first.isfinite().all() and second.isfinite().all()
    assert first.abs().max() < 1e-4
    data = graph(ethanol(), MODEL)
    data.pos.requires_grad_()

    def magnitude(pos):
        moved = data.clone()
        moved.pos = pos
        return MODEL(moved, forces=False).properties["mu"]

    assert torch.autograd.gradcheck(magnitude, data.pos, atol=1e-6, fast_mode=True)
    assert torch.autograd.gradgradcheck(magnitude, data.pos, atol=1e-5, fast_mode=True)


def test_energies_do_not_notice():
    """With a Dipole head energies and forces are the same, and forces are the slope of the energy."""
    plain, data = steep_model(), graph(ethanol(), MODEL)
    without, with_head = plain(data), MODEL(data)
    torch.testing.assert_close(with_head.energy, without.energy, rtol=0, atol=0)
    torch.testing.assert_close(with_head.forces, without.forces, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(with_head.atomic_energies, without.atomic_energies, rtol=0, atol=0)
    step = torch.zeros_like(data.pos)
    step[2, 1] = 1e-4
    ends = []
    for sign in (1, -1):
        moved = data.clone()
        moved.pos = data.pos + sign * step
        with torch.no_grad():
            ends.append(MODEL(moved).energy.item())
    assert (ends[1] - ends[0]) / 2e-4 == pytest.approx(with_head.forces[2, 1].item(), rel=1e-6)


def test_what_is_refused():
    with pytest.raises(InputError, match="the dipole of a crystal is not defined"):
        MODEL(graph(bulk("Si"), MODEL))
    vectors, magnitudes = Dipole(8), Dipole(8, magnitude=True)
    labels = torch.tensor([[3.0, 0.0, 4.0]])
    assert vectors.label(labels) is labels and magnitudes.label(labels).tolist() == [5.0]
    assert magnitudes.label(labels[:, 0]).tolist() == [3.0]
    with pytest.raises(InputError, match=r"three components, the labels have the shape \[1\]; for magnitudes set"):
        vectors.label(labels[:, 0])
    with pytest.raises(InputError, match=r"shape \[1, 2\]"):
        magnitudes.label(labels[:, :2])
    with pytest.raises(
        InputError, match=r"Atomwise learns one number per molecule, the labels have the shape \[1, 3\]"
    ):
        Atomwise(8).label(labels)
    atoms = Atoms("H", info={"charge": "plus one"})
    with pytest.raises(InputError, match="info\\['charge'\\] should be the total charge in e, not 'plus one'"):
        pygschnet.from_atoms(atoms)


def frames_with_dipoles(count: int, **labels: bool) -> list[Data]:
    """Frames of ethanol with the energies, forces, dipoles and magnitudes of another model."""
    teacher, frames = model_with(dipole=False, mu=True), []
    for seed in range(count):
        data = graph(ethanol(seed), teacher)
        found = teacher(data)
        data.energy, data.forces = found.energy.detach(), found.forces.detach()
        for name, magnitude in labels.items():
            data[name] = found.properties["mu" if magnitude else "dipole"].detach()
        frames.append(data)
    return frames


def trained(frames: list[Data], folder, steps: int, **settings) -> AtomisticModule:
    torch.manual_seed(0)
    schnet = SchNet(16, 16, 2, gaussians=20, gaussian_stop=5.0, gamma=None, cutoff=5.0, cutoff_form="cosine")
    module = AtomisticModule(schnet, Atomwise(16), optimizer=lambda p: torch.optim.Adam(p, 5e-3), **settings)
    run = pl.Trainer(default_root_dir=folder, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                     enable_model_summary=False, accelerator="cpu", max_steps=steps, log_every_n_steps=1)  # fmt: skip
    run.fit(module, DataLoader(frames, 10))
    return module


def test_vectors_and_magnitudes_are_learnt(tmp_path):
    """Vectors, magnitudes and the magnitudes of vectors that are turned at random; then the model file."""
    frames = frames_with_dipoles(10, dipole=False, mu=True, turned=False)
    rng = np.random.default_rng(0)
    for frame in frames:
        frame.turned = frame.turned @ torch.from_numpy(np.linalg.qr(rng.normal(size=(3, 3)))[0])
    torch.manual_seed(0)
    heads = {"dipole": Dipole(16), "mu": Dipole(16, magnitude=True), "turned": Dipole(16, magnitude=True)}
    module = trained(frames, tmp_path, 300, rho=0.0, energy_weight=0.0, properties=heads)
    batch = Batch.from_data_list(frames)
    with torch.no_grad():
        found = module.model.eval()(batch, forces=False)
    labels = module.model.labels(batch)
    torch.testing.assert_close(labels["turned"], batch.mu, atol=1e-5, rtol=0)
    for name, scale in zip(heads, module.property_scales.tolist(), strict=True):
        spread = batch.dipole.square().mean().sqrt() if name == "dipole" else batch.mu.std(correction=0)
        assert scale == pytest.approx(spread.item(), rel=1e-4)
        assert (found.properties[name] - labels[name]).square().mean().sqrt() < 0.2 * scale, name
        assert module.model.properties[name].elements.nonzero().flatten().tolist() == [1, 6, 8]
    expected = torch.zeros(10, dtype=torch.float64)
    for name, scale in zip(heads, module.property_scales, strict=True):
        expected += ((found.properties[name] - labels[name]) / scale).square().reshape(10, -1).sum(1)
    close(module.losses(found, batch), expected)
    pygschnet.save(module.model, tmp_path / "model.safetensors")
    again = pygschnet.load(tmp_path / "model.safetensors")
    assert again.properties["turned"].magnitude and not again.properties["dipole"].magnitude
    with torch.no_grad():
        torch.testing.assert_close(again(batch, forces=False), found, rtol=0, atol=0)
    with torch.no_grad(), pytest.raises(InputError, match="not been trained on N"):
        again(graph(molecule("NH3"), again))


def test_energies_forces_and_dipoles_together(tmp_path):
    frames = frames_with_dipoles(10, dipole=False)
    module = trained(frames, tmp_path, 200, rho=1.0, properties={"dipole": Dipole(16)})
    batch = Batch.from_data_list(frames)
    found = module.model(batch)
    for predicted, label in ((found.forces, batch.forces), (found.properties["dipole"], batch.dipole)):
        assert (predicted - label).square().mean() < 0.2 * label.square().mean()
    with pytest.raises(InputError, match="has three components"):
        trained([frame.update({"dipole": frame.energy}) for frame in frames], tmp_path, 1, rho=0.0,
                properties={"dipole": Dipole(16)})  # fmt: skip


def test_the_calculator_and_predictions(tmp_path, capsys):
    model, atoms = model_with(mu=True, dipole=False), molecule("H2O")
    atoms.calc = Calculator(model)
    expected = model(graph(atoms, model))
    np.testing.assert_allclose(atoms.get_dipole_moment(), expected.properties["dipole"][0].detach(), atol=1e-12)
    np.testing.assert_allclose(atoms.get_charges(), expected.atomic_properties["dipole"].detach(), atol=1e-12)
    assert atoms.calc.results["mu"] == pytest.approx(np.linalg.norm(atoms.get_dipole_moment()))
    assert isinstance(atoms.calc.results["energy"], np.float64)
    atoms.info["charge"] = -1
    assert atoms.get_charges().sum() == pytest.approx(-1.0, abs=1e-12)
    magnitude = Calculator(model_with(mu=True))
    assert {"charges", "dipole"} & set(magnitude.implemented_properties) == {"charges"}
    assert "charges" not in Calculator(steep_model()).implemented_properties
    pygschnet.save(model, tmp_path / "a.safetensors")
    pygschnet.save(model_with(mu=True, dipole=False).float(), tmp_path / "b.safetensors")
    atoms.calc = None
    atoms.write(tmp_path / "water.extxyz")
    for out in ("out.npz", "out.extxyz"):  # three atoms: a vector of the molecule is not taken for one value per atom
        files = f"{tmp_path / 'a.safetensors'},{tmp_path / 'b.safetensors'}"
        predict(files, str(tmp_path / "water.extxyz"), str(tmp_path / out), dtype="float64")
    with np.load(tmp_path / "out.npz") as file:
        assert file["dipole"].shape == file["dipole_std"].shape == (1, 3) and file["charges"].shape == (3,)
        assert file["charges"].sum() == pytest.approx(-1.0, abs=1e-9)
        dipole = file["dipole"][0]
    structure = ase.io.read(tmp_path / "out.extxyz")
    np.testing.assert_allclose(structure.get_dipole_moment(), dipole, atol=1e-7)
    assert structure.info["dipole_std"].shape == (3,) and "charges_std" in structure.arrays


def test_models_without_further_heads_load():
    """The oldest model file knows `pygschnet.heads.Atomwise`; a new one says where it stands now."""
    model = pygschnet.load(Path(__file__).with_name("fixtures") / "model_format_1.safetensors")
    assert isinstance(model.head, Atomwise) and len(model.properties) == 0
    prediction = model(graph(molecule("H2O"), model))
    assert prediction.properties == prediction.atomic_properties == {}


@pytest.mark.skipif(not SHARED.exists(), reason="no reference data beside the repository")
def test_the_dipoles_of_formaldehyde():
    """The labels, in the unit of the configuration, are those of formaldehyde: from O to C, as large as in QM9."""
    path = SHARED / "h2co_dipole" / "h2co_B3LYP_cc-pVDZ_4001.npz"
    data = Files(str(path), units={"dipole": "e*a0/Debye*e*Ang"}, cutoff=5.0)
    data.setup("predict")
    lowest = data.molecules.batch([int(data.store["energy"].argmin())])
    assert float(lowest.charge) == 0
    dipole, axis = lowest.dipole[0], lowest.pos[0] - lowest.pos[1]
    assert dipole.norm() / units.Debye == pytest.approx(2.1089, rel=0.03)  # QM9, B3LYP/6-31G(2df,p)
    assert torch.dot(dipole, axis) / (dipole.norm() * axis.norm()) > 0.999
