"""Molecular dynamics with an exported model: torch, vesin and ASE, nothing else.

pygschnet export runs/NAME/model.safetensors model.pt2
python experiments/deploy/run_exported.py model.pt2 molecule.xyz [steps]
"""

import json
import sys

import ase.io
import numpy as np
import torch
from ase import units
from ase.calculators.calculator import Calculator, all_changes
from ase.geometry import complete_cell
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from vesin import NeighborList


class Exported(Calculator):
    implemented_properties = ("energy", "energies", "forces", "stress")

    def __init__(self, path: str):
        super().__init__()
        self.program = torch._inductor.aoti_load_package(path)
        self.about = json.loads(self.program.loader.get_metadata()["pygschnet"])

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        cell = complete_cell(self.atoms.cell)
        if self.about["cutoff"] is None:  # all pairs
            i, j = np.nonzero(~np.eye(len(self.atoms), dtype=bool))
            shifts = np.zeros((len(i), 3))
        else:
            search = NeighborList(cutoff=self.about["cutoff"], full_list=True)
            i, j, shifts = search.compute(self.atoms.positions, cell, self.atoms.pbc, "ijS")
        z = torch.tensor(self.atoms.numbers, dtype=torch.int64)
        edges = torch.from_numpy(np.stack([j, i]).astype(np.int64))  # sources, targets
        results = self.program(z, torch.tensor(self.atoms.positions), edges, torch.from_numpy(shifts @ cell))
        energy, energies, forces, virial = (result.numpy() for result in results)
        self.results = {"energy": float(energy), "energies": energies, "forces": forces}
        if self.atoms.pbc.all():
            self.results["stress"] = -virial.ravel()[[0, 4, 8, 5, 2, 1]] / self.atoms.get_volume()


if __name__ == "__main__":
    atoms = ase.io.read(sys.argv[2])
    atoms.calc = Exported(sys.argv[1])
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs)
    for _ in dynamics.irun(int(sys.argv[3]) if len(sys.argv) > 3 else 10):
        energies = atoms.get_potential_energy(), atoms.get_total_energy()
        print(f"potential {energies[0]:.6f} eV, total {energies[1]:.6f} eV")
