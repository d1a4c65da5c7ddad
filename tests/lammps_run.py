"""Run by mpirun in test_engines: LAMMPS's energies, forces, pressure and a short trajectory, written by rank 0."""

import sys

import numpy as np
import torch
from mpi4py import MPI

from experiments.engines.lammps_md import start
from tests.structures import engine_systems, steep_model


def main(path: str) -> None:
    torch.set_num_threads(1)
    arrays = {}
    for name, atoms in engine_systems().items():
        engine = start(atoms, steep_model())
        engine.command("thermo_style custom step pe etotal pxx pyy pzz pyz pxz pxy")
        engine.commands_list(["fix move all nve", "timestep 0.0005", "run 0"])
        arrays[f"{name} energy"] = engine.get_thermo("pe")
        arrays[f"{name} forces"] = np.array(engine.gather_atoms("f", 1, 3)).reshape(-1, 3)
        arrays[f"{name} pressure"] = [engine.get_thermo(f"p{axes}") for axes in ("xx", "yy", "zz", "yz", "xz", "xy")]
        before = engine.get_thermo("etotal")
        engine.command("run 40")
        arrays[f"{name} end"] = np.array(engine.gather_atoms("x", 1, 3)).reshape(-1, 3)
        arrays[f"{name} drift"] = engine.get_thermo("etotal") - before
        engine.close()
    if MPI.COMM_WORLD.rank == 0:
        np.savez(path, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
