"""OpenMM moves the atoms, the model gives the forces through `openmm.PythonForce`, which PyPI's wheel has.

python -m experiments.engines.openmm_md MODEL.safetensors START.xyz --steps 100
"""

import argparse
import time

import ase.io
import numpy as np
import openmm
import torch
from ase import Atoms
from openmm import unit

import pygschnet
from pygschnet import AtomisticModel, RadiusGraph

EV = 96.48533212331002
"""kJ/mol, from the elementary charge and Avogadro's number, both exact since 2019."""


def model_force(atoms: Atoms, model: AtomisticModel) -> openmm.PythonForce:
    """The model as a force of OpenMM, for all particles of the system in the order of these atoms."""
    model, graph, structure = model.eval(), RadiusGraph(model.cutoff), atoms.copy()

    def compute(state: openmm.State) -> tuple[float, np.ndarray]:
        structure.positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        if structure.pbc.any():
            structure.cell = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom)
        with torch.no_grad():
            prediction = model(graph(pygschnet.from_atoms(structure)))
        return prediction.energy.item() * EV, prediction.forces.double().numpy() * (EV * 10)  # kJ/mol, kJ/mol/nm

    force = openmm.PythonForce(compute)
    force.setUsesPeriodicBoundaryConditions(bool(atoms.pbc.any()))
    return force


def start(atoms: Atoms, model: AtomisticModel, integrator: openmm.Integrator) -> openmm.Context:
    """A context with these atoms, their velocities and the forces of the model."""
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    if atoms.pbc.any():
        system.setDefaultPeriodicBoxVectors(*(atoms.cell.array / 10))
    system.addForce(model_force(atoms, model))
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))  # float64
    context.setPositions(atoms.positions / 10)
    context.setVelocities(atoms.get_velocities() * ase.units.fs * 100)  # Å/fs to nm/ps
    return context


def energies(context: openmm.Context) -> tuple[float, float]:
    """Potential and kinetic, in eV."""
    state = context.getState(getEnergy=True)
    return tuple(
        energy.value_in_unit(unit.kilojoule_per_mole) / EV
        for energy in (state.getPotentialEnergy(), state.getKineticEnergy())
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("start", help="any file that ASE reads")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--step", type=float, default=0.5, help="in fs")
    arguments = parser.parse_args()
    atoms, integrator = ase.io.read(arguments.start), openmm.VerletIntegrator(arguments.step * unit.femtosecond)
    context = start(atoms, pygschnet.load(arguments.model), integrator)
    integrator.step(1)
    before, begun = sum(energies(context)), time.perf_counter()
    integrator.step(arguments.steps)
    seconds, after = time.perf_counter() - begun, sum(energies(context))
    print(f"{len(atoms)} atoms: {arguments.steps / seconds:.1f} steps/s")
    print(f"total energy {before:.6f} eV, after {arguments.steps} steps {after - before:+.6f} eV")


if __name__ == "__main__":
    main()
