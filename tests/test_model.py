"""Forces, stress, and graphs that a model must refuse."""

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch_geometric.data import Batch, Data

from pygschnet import AtomisticModel, Atomwise, InputError, RadiusGraph, SchNet, from_atoms
from tests.structures import ethanol, graph, make_model


@pytest.fixture(scope="module")
def model():
    return make_model("schnetpack")


def crystal():
    atoms = bulk("Si", cubic=False)
    atoms.positions[1] += 0.1
    return atoms


def test_stress_is_the_strain_derivative(model):
    atoms, h = crystal(), 1e-5
    stress = model(graph(atoms, model), stress=True).stress[0]
    for a, b in ((0, 0), (1, 2)):
        energies = []
        for sign in (1, -1):
            strain = torch.eye(3).double()
            strain[a, b] += sign * h / 2
            strain[b, a] += sign * h / 2
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain.numpy(), scale_atoms=True)
            energies.append(model(graph(strained, model), forces=False).energy.item())
        numerical = (energies[0] - energies[1]) / (2 * h * atoms.get_volume())
        assert stress[a, b].item() == pytest.approx(numerical, abs=1e-6)
    torch.testing.assert_close(stress, stress.T)
    assert stress.abs().max() > 1e-4


def test_supercell_has_twice_the_energy(model):
    one, two = (model(graph(atoms, model), stress=True) for atoms in (crystal(), crystal() * (1, 1, 2)))
    torch.testing.assert_close(two.energy, 2 * one.energy)
    torch.testing.assert_close(two.forces, one.forces.repeat(2, 1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(two.stress, one.stress, rtol=1e-9, atol=1e-9)


def test_periodic_forces_are_the_gradient(model):
    atoms, h = crystal(), 1e-4
    forces = model(graph(atoms, model)).forces
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[0, 1] += sign * h
        energies.append(model(graph(moved, model), forces=False).energy.item())
    assert forces[0, 1].item() == pytest.approx(-(energies[0] - energies[1]) / (2 * h), abs=1e-6)


def test_a_batch_of_crystals(model):
    crystals = [graph(crystal(), model), graph(bulk("Cu"), model)]
    together = model(Batch.from_data_list(crystals), stress=True)
    apart = [model(one, stress=True) for one in crystals]
    torch.testing.assert_close(together.stress, torch.cat([one.stress for one in apart]))
    torch.testing.assert_close(together.forces, torch.cat([one.forces for one in apart]))


def test_gradients_of_positions_that_ask_for_them(model):
    data = graph(ethanol(), model)
    data.pos.requires_grad_()
    prediction = model(data)
    gradient = torch.autograd.grad(prediction.energy.sum(), data.pos)[0]
    torch.testing.assert_close(gradient, -prediction.forces.detach())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: from_atoms(ethanol()), r"no edges: apply RadiusGraph\(cutoff=5.0\)"),
        (lambda: RadiusGraph(4.0)(from_atoms(ethanol())), "edges up to 4.0 Å, the model needs those up to 5.0 Å"),
        (lambda: Data(z=torch.tensor([104]), pos=torch.zeros(1, 3), edge_index=torch.zeros(2, 0, dtype=torch.long)),
         "atomic number 104 is out of range"),
    ],
)  # fmt: skip
def test_graphs_it_cannot_use(model, data, message):
    with pytest.raises(InputError, match=message):
        model(data())


def test_longer_edges_are_welcome(model):
    torch.testing.assert_close(
        model(RadiusGraph(9.0)(from_atoms(ethanol()))).energy, model(graph(ethanol(), model)).energy
    )


def test_stress_of_a_molecule(model):
    with pytest.raises(InputError, match="stress needs a cell"):
        model(graph(Atoms("H"), model), stress=True)


def test_head_that_does_not_fit():
    with pytest.raises(InputError, match="gives 64 features, the head takes 32"):
        AtomisticModel(SchNet(), Atomwise(32))
