"""TorchSim: its results are the model's own, whatever the batch; its relaxations and trajectories are those of ASE."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk, molecule
from ase.md.verlet import VelocityVerlet

from pygschnet import AtomisticModel, Calculator, InputError
from tests.structures import ethanol, graph, make_model, steep_model

ts = pytest.importorskip("torch_sim", reason="needs torch-sim-atomistic")

from torch_sim.models.interface import validate_model_outputs  # noqa: E402

from pygschnet.torchsim import TorchSimModel  # noqa: E402

KINDS = ("CH3CH2OH", "H2O", "C6H6", "CH4", "NH3", "CH3OH", "C2H6", "CH3CHO")
precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors take longer with many threads, and far longer on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rattled(atoms, seed: int):
    atoms.positions += np.random.default_rng(seed).normal(scale=0.05, size=atoms.positions.shape)
    return atoms


def molecules(count: int) -> list:
    return [rattled(molecule(KINDS[k % len(KINDS)]), k) for k in range(count)]


def crystals() -> list:
    """Boxes smaller and larger than the cutoff, one of them without any symmetry."""
    water = molecule("H2O", cell=[[2.9, 0, 0], [0.7, 3.1, 0], [0.2, -0.5, 3.4]], pbc=True)
    return [rattled(atoms, seed) for seed, atoms in enumerate([bulk("Si"), bulk("Si", cubic=True), water])]


def own(atoms, model: AtomisticModel, stress: bool = False):
    with torch.no_grad():
        return model(graph(atoms, model), stress=stress)


@pytest.mark.parametrize("name", ["paper", "schnetpack", "short"])
def test_molecules_are_the_models(name):
    model, systems = make_model(name), molecules(9)
    adapter = TorchSimModel(model)
    output = adapter(ts.initialize_state(systems, adapter.device, adapter.dtype))
    alone = [own(atoms, model) for atoms in systems]
    torch.testing.assert_close(output["energy"], torch.cat([each.energy for each in alone]), rtol=0, atol=1e-8)
    torch.testing.assert_close(output["forces"], torch.cat([each.forces for each in alone]), rtol=0, atol=1e-8)


def test_crystals_are_the_models():
    model, systems = make_model("short"), crystals()
    adapter = TorchSimModel(model, stress=True)
    output = adapter(ts.initialize_state(systems, adapter.device, adapter.dtype))
    alone = [own(atoms, model, stress=True) for atoms in systems]
    for name in ("energy", "forces", "stress"):
        expected = torch.cat([getattr(each, name) for each in alone])
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(output[name], expected, rtol=0, atol=1e-9)


def test_pressure_is_minus_the_slope_of_energy_over_volume():
    """TorchSim's pressure is the thermodynamic one: stress has the sign that its barostats expect."""
    adapter = TorchSimModel(steep_model(), stress=True)
    energies, volumes = [], []
    for stretch in (1 - 1e-4, 1.0, 1 + 1e-4):
        atoms = bulk("Si", cubic=True)
        atoms.set_cell(atoms.cell * stretch, scale_atoms=True)
        output = adapter(ts.initialize_state(atoms, adapter.device, adapter.dtype))
        energies.append(output["energy"].item())
        volumes.append(atoms.get_volume())
        if stretch == 1.0:
            still = torch.zeros(1, dtype=torch.float64)
            pressure = ts.quantities.get_pressure(output["stress"], still, volumes[1]).item()
    slope = (energies[2] - energies[0]) / (volumes[2] - volumes[0])
    assert abs(slope) > 1e-3
    assert pressure == pytest.approx(-slope, rel=1e-5)


@precisions
@pytest.mark.parametrize("stress", [False, True])
def test_torchsim_accepts_it(dtype, stress):
    validate_model_outputs(TorchSimModel(make_model("short"), dtype=dtype, stress=stress), torch.device("cpu"), dtype)


def test_the_model_is_not_changed():
    model = make_model("short")
    adapter = TorchSimModel(model, dtype=torch.float32)
    state = ts.initialize_state(molecules(3), adapter.device, adapter.dtype)
    assert (state.dtype, adapter(state)["forces"].dtype) == (torch.float32, torch.float32)
    assert next(model.parameters()).dtype == torch.float64


@precisions
def test_fifty_molecules_relax_at_once(dtype):
    model, systems = steep_model(), molecules(50)
    adapter = TorchSimModel(model, dtype=dtype)
    assert sum(own(atoms, model).forces.norm(dim=1).max() > 0.05 for atoms in systems) > 30
    final = ts.optimize(
        systems,
        adapter,
        optimizer=ts.optimizers.fire,
        convergence_fn=ts.generate_force_convergence_fn(0.02, include_cell_forces=False),
        max_steps=300,
        autobatcher=ts.InFlightAutoBatcher(adapter, memory_scales_with="n_atoms", max_memory_scaler=1000),
    )
    for before, after in zip(systems, final.to_atoms(), strict=True):
        assert (after.numbers == before.numbers).all()
        assert own(after, model).forces.norm(dim=1).max() < 0.0201
        assert own(after, model).energy <= own(before, model).energy


def test_trajectories_are_those_of_ase():
    model, atoms = steep_model(), ethanol()
    atoms.set_velocities(np.random.default_rng(0).normal(scale=0.01, size=(9, 3)))
    adapter, step = TorchSimModel(model), torch.tensor(0.5 * units.fs, dtype=torch.float64)
    initialise, update = ts.integrators.nve(adapter, dt=step, kT=torch.tensor(0.0))
    state = initialise(ts.initialize_state([atoms, molecule("CH4")], adapter.device, adapter.dtype))
    state.momenta[: len(atoms)] = torch.from_numpy(atoms.get_momenta())

    atoms.calc = Calculator(model)
    dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs)
    for _ in range(20):
        state = update(state)
        dynamics.run(1)
        assert state.energy[0].item() == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    np.testing.assert_allclose(state.positions[: len(atoms)].numpy(), atoms.positions, rtol=0, atol=1e-8)
    assert ts.units.MetalUnits.time.value * 1e-3 == pytest.approx(units.fs, rel=1e-6)  # its unit of time, in ps


def test_energy_is_conserved():
    adapter = TorchSimModel(steep_model())
    systems, kt = molecules(4), torch.tensor(300 * units.kB, dtype=torch.float64)

    def drift(femtoseconds: float) -> float:
        step = torch.tensor(femtoseconds * units.fs, dtype=torch.float64)
        initialise, update = ts.integrators.nve(adapter, dt=step, kT=kt, seed=1)
        state, totals = initialise(ts.initialize_state(systems, adapter.device, adapter.dtype)), []
        for _ in range(round(20 / femtoseconds)):
            state = update(state)
            kinetic = ts.calc_kinetic_energy(momenta=state.momenta, masses=state.masses, system_idx=state.system_idx)
            totals.append(state.energy + kinetic)
        totals = torch.stack(totals)
        return (totals - totals[0]).abs().max().item()

    coarse, fine = drift(0.5), drift(0.25)
    assert coarse < 5e-3  # eV, of 4 molecules with 0.2 to 0.5 eV of kinetic energy each
    assert 3 < coarse / fine < 5.5  # the error of the integrator, second order in the step, and nothing else


def test_errors():
    with pytest.raises(InputError, match="float32 or float64"):
        TorchSimModel(make_model("short"), dtype=torch.float16)
    adapter = TorchSimModel(make_model("short"), stress=True)
    with pytest.raises(InputError, match="stress needs a cell"):
        adapter(ts.initialize_state(molecules(1), adapter.device, adapter.dtype))


def test_nobody_else_needs_torchsim():
    script = "import sys; sys.modules['torch_sim'] = None; import pygschnet; import pygschnet.torchsim"
    output = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert output.stderr.splitlines()[-1].endswith("pip install torch-sim-atomistic")
    assert "Error: pygschnet.torchsim needs TorchSim" in output.stderr
