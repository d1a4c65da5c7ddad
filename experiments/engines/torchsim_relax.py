"""Relaxes many molecules at once with TorchSim, and a few one by one with ASE's FIRE, and compares the times.

    python -m experiments.engines.torchsim_relax MODEL.safetensors START.xyz --molecules 2000

Every molecule is the first one with its atoms displaced at random; the network has to know its elements.
"""

import argparse
import time

import ase.io
import numpy as np
import torch
import torch_sim as ts
from ase import Atoms
from ase.optimize import FIRE

import pygschnet
from pygschnet.torchsim import TorchSimModel


def displaced(atoms: Atoms, count: int, scale: float = 0.05) -> list[Atoms]:
    copies = [atoms.copy() for _ in range(count)]
    for seed, copy in enumerate(copies):
        copy.rattle(scale, seed=seed)
    return copies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("start", help="any file that ASE reads")
    parser.add_argument("--molecules", type=int, default=2000)
    parser.add_argument("--alone", type=int, default=20, help="how many of them to relax one by one")
    parser.add_argument("--at_once", type=int, default=1000, help="molecules in one batch")
    parser.add_argument("--fmax", type=float, default=0.05, help="largest force on an atom at the end, eV/Å")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    systems = displaced(ase.io.read(arguments.start), arguments.molecules)
    network = pygschnet.load(arguments.model)

    model = TorchSimModel(network, device=arguments.device)
    atoms_at_once = arguments.at_once * len(systems[0])
    begun = time.perf_counter()
    final = ts.optimize(
        systems,
        model,
        optimizer=ts.optimizers.fire,
        convergence_fn=ts.generate_force_convergence_fn(arguments.fmax, include_cell_forces=False),
        max_steps=1000,
        autobatcher=ts.InFlightAutoBatcher(model, memory_scales_with="n_atoms", max_memory_scaler=atoms_at_once),
    )
    together = time.perf_counter() - begun
    with torch.no_grad():
        forces = model(final)["forces"].norm(dim=1)
    worst = torch.zeros(len(systems), device=forces.device).index_reduce_(0, final.system_idx, forces.float(), "amax")
    print(f"TorchSim: {len(systems) / together:.1f} molecules/s; {int((worst < arguments.fmax).sum())} converged")

    begun, steps = time.perf_counter(), []
    for atoms in systems[: arguments.alone]:
        atoms.calc = pygschnet.Calculator(network, device=arguments.device)
        optimiser = FIRE(atoms, logfile=None)
        optimiser.run(fmax=arguments.fmax, steps=1000)
        steps.append(optimiser.nsteps)
    alone = time.perf_counter() - begun
    print(f"one by one: {arguments.alone / alone:.1f} molecules/s; {np.mean(steps):.0f} steps each")


if __name__ == "__main__":
    main()
