"""Generate data/ethanol.npz: frames of ethanol at 500 K with GFN2-xTB energies and forces.

Langevin dynamics with ASE, forces from tblite (`pip install tblite`), every 100th step of 0.5 fs kept after an
equilibration. Takes a few minutes: python data/make_ethanol.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ase import units
from ase.build import molecule
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from tblite.ase import TBLite
from tqdm import tqdm

FRAMES, STRIDE, EQUILIBRATION = 2000, 100, 4000
TIMESTEP_FS, TEMPERATURE_K, FRICTION_PER_FS, SEED = 0.5, 500, 0.01, 2026

if __name__ == "__main__":
    atoms = molecule("CH3CH2OH")
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    rng = np.random.default_rng(SEED)
    atoms.set_constraint(FixCom())
    thermalize_momenta(atoms, temperature_K=TEMPERATURE_K, rng=rng)
    dynamics = Langevin(
        atoms,
        TIMESTEP_FS * units.fs,
        temperature_K=TEMPERATURE_K,
        friction=FRICTION_PER_FS / units.fs,
        rng=rng,
        fixcm=False,
    )
    dynamics.run(EQUILIBRATION)
    positions, energies, forces = [], [], []
    for _ in tqdm(range(FRAMES)):
        dynamics.run(STRIDE)
        positions.append(atoms.get_positions() - atoms.get_center_of_mass())
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces(apply_constraint=False))
    provenance = {
        "method": "GFN2-xTB (Bannwarth et al., J. Chem. Theory Comput. 15, 1652 (2019)), total energies",
        "sampling": f"Langevin dynamics, {TEMPERATURE_K} K, friction {FRICTION_PER_FS}/fs, {TIMESTEP_FS} fs steps, "
        f"every {STRIDE}th frame after {EQUILIBRATION} steps, seed {SEED}",
        "versions": {package: version(package) for package in ("tblite", "ase", "numpy")},
        "script": "data/make_ethanol.py",
        "licence": "CC0-1.0",
    }
    np.savez_compressed(
        Path(__file__).with_name("ethanol.npz"),
        z=atoms.numbers.astype(np.uint8),
        R=np.array(positions, dtype=np.float32),
        E=np.array(energies),
        F=np.array(forces, dtype=np.float32),
        r_unit="Å",
        e_unit="eV",
        name="ethanol",
        theory="GFN2-xTB",
        provenance=json.dumps(provenance),
    )
