"""LAMMPS moves the atoms, on any number of MPI processes; the model gives the forces through `fix external`.

Energies are sums over atoms, E = Σ_i e_i, and e_i depends on the atoms within T·r_c of atom i for T interaction blocks
with cutoff r_c. LAMMPS gives every process its own atoms and copies ("ghosts") of all others within T·r_c, periodic
images included; the process computes E_p = Σ e_i over its own atoms and −∂E_p/∂r of all atoms it sees. The force on an
atom is the sum over the processes that see it: one all-reduce of [atoms, 3] by atom number. Exact for any number of
processes; nothing is cut off, no process sees the whole system.

    mpirun -n 2 python -m experiments.engines.lammps_md MODEL.safetensors START.xyz --steps 100
"""

import argparse
import time

import ase.io
import numpy as np
import torch
from ase import Atoms
from lammps import lammps
from mpi4py import MPI
from torch_geometric.data import Data

import pygschnet
from pygschnet import AtomisticModel, InputError, RadiusGraph

SKIN = 1.0
"""Å that atoms may move, two of them together, before LAMMPS distributes them anew."""


class Forces:
    """The callback of `fix external`: forces on the atoms of this process, the energy and the virial of all."""

    def __init__(self, engine: lammps, model: AtomisticModel, elements: list[int], comm: MPI.Comm):
        self.engine, self.comm = engine, comm
        self.model = model.eval().requires_grad_(False)
        self.graph = RadiusGraph(model.cutoff)
        self.elements = torch.tensor([0, *elements])  # atomic number of each of LAMMPS's types, which begin at 1
        self.energy = 0.0

    def __call__(self, _caller, _step: int, own: int, _tag, _x, forces: np.ndarray) -> None:
        seen = own + self.engine.extract_setting("nghost")
        array = self.engine.numpy.extract_atom
        number = torch.from_numpy(array("id", nelem=seen).astype(np.int64)) - 1
        types = torch.from_numpy(array("type", nelem=seen).astype(np.int64))
        pos = torch.from_numpy(array("x", nelem=seen, dim=3).copy()).requires_grad_()

        gradient, energy = torch.zeros_like(pos), 0.0
        if own:
            graph = self.graph(Data(z=self.elements[types], pos=pos))
            share = self.model(graph, forces=False).atomic_energies[:own].sum()
            (gradient,) = torch.autograd.grad(share, pos)
            energy = share.item()
        virial = -(pos.detach().mT @ gradient)  # Σ r ∂E_p/∂r over all atoms seen, images where they are
        total = torch.zeros(self.engine.get_natoms(), 3, dtype=torch.float64).index_add_(0, number, -gradient)
        sums = np.concatenate([total.numpy().ravel(), virial.numpy().ravel(), [energy]])
        self.comm.Allreduce(MPI.IN_PLACE, sums)

        forces[:] = sums[:-10].reshape(-1, 3)[number[:own].numpy()]
        virial, self.energy = sums[-10:-1].reshape(3, 3), float(sums[-1])
        self.engine.fix_external_set_energy_global("model", self.energy)
        voigt = virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
        self.engine.fix_external_set_virial_global("model", voigt.tolist())


def start(atoms: Atoms, model: AtomisticModel, comm: MPI.Comm = MPI.COMM_WORLD) -> lammps:
    """LAMMPS with these atoms, their velocities and the forces of the model, ready for commands such as `fix nve`.

    Units are LAMMPS's metal: eV, Å, ps, bar.

    Args:
        atoms: periodic in all directions or in none, with a lower triangular cell.
        model: one with a cutoff, as without one every atom depends on all others.
        comm: the processes.

    Raises:
        InputError: for a model without cutoff, or cells that are not lower triangular.
    """
    if model.cutoff is None:
        raise InputError("this model has no cutoff: every atom depends on all others, which cannot be distributed")
    if atoms.pbc.any() and not (atoms.pbc.all() and np.allclose(np.triu(atoms.cell.array, 1), 0)):
        raise InputError("LAMMPS wants atoms periodic in all directions and a lower triangular cell")
    engine = lammps(cmdargs=["-screen", "none", "-log", "none"], comm=comm)
    elements = sorted(set(atoms.numbers.tolist()))
    reach = model.representation.interactions * model.cutoff
    if atoms.pbc.all():
        (lx, _, _), (xy, ly, _), (xz, yz, lz) = atoms.cell.array.tolist()
        box, boundary = f"prism 0 {lx!r} 0 {ly!r} 0 {lz!r} {xy!r} {xz!r} {yz!r}", "p p p"
    else:
        low, high = atoms.positions.min(0) - 1.0, atoms.positions.max(0) + 1.0
        box, boundary = "block " + " ".join(f"{a} {b}" for a, b in zip(low, high, strict=True)), "s s s"
    engine.commands_list(
        [
            "units metal",
            "atom_style atomic",
            "atom_modify map array sort 0 0",
            f"boundary {boundary}",
            "box tilt large",
            f"region box {box} units box",
            f"create_box {len(elements)} box",
            f"pair_style zero {model.cutoff} nocoeff",
            "pair_coeff * *",
            f"comm_modify cutoff {reach + SKIN}",
            f"neighbor {SKIN} bin",
            "neigh_modify delay 0 every 1 check yes",
        ]
    )
    for kind, z in enumerate(elements, 1):
        engine.command(f"mass {kind} {atoms.get_masses()[atoms.numbers == z][0]}")
    kinds = np.searchsorted(elements, atoms.numbers) + 1
    velocities = atoms.get_velocities() * 1000 * ase.units.fs  # Å/ps
    engine.create_atoms(
        len(atoms),
        list(range(1, len(atoms) + 1)),
        kinds.tolist(),
        atoms.positions.ravel().tolist(),
        velocities.ravel().tolist(),
    )
    engine.commands_list(["fix model all external pf/callback 1 1", "fix_modify model energy yes virial yes"])
    engine.set_fix_external_callback("model", Forces(engine, model, elements, comm), None)
    return engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("start", help="any file that ASE reads")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--step", type=float, default=0.5, help="in fs")
    parser.add_argument("--repeat", type=int, default=1, help="of a periodic cell, in each direction")
    arguments = parser.parse_args()
    atoms = ase.io.read(arguments.start).repeat(arguments.repeat)
    engine = start(atoms, pygschnet.load(arguments.model))
    engine.commands_list([f"timestep {arguments.step / 1000}", "fix move all nve", "thermo 10", "run 0"])
    before, begun = engine.get_thermo("etotal"), time.perf_counter()
    engine.command(f"run {arguments.steps}")
    seconds, after = time.perf_counter() - begun, engine.get_thermo("etotal")
    if MPI.COMM_WORLD.rank == 0:
        print(f"{len(atoms)} atoms, {MPI.COMM_WORLD.size} processes: {arguments.steps / seconds:.2f} steps/s")
        print(f"total energy {before:.6f} eV, after {arguments.steps} steps {after - before:+.6f} eV")


if __name__ == "__main__":
    main()
