"""Geometries for the gallery: molecules from SMILES, relaxed with GFN2-xTB.

pip install rdkit tblite; python experiments/gallery/make_molecules.py
"""

from pathlib import Path

import ase.io
from ase import Atoms
from ase.optimize import BFGS
from rdkit import Chem
from rdkit.Chem import AllChem
from tblite.ase import TBLite

SMILES = {
    "benzene": "c1ccccc1",
    "toluene": "Cc1ccccc1",
    "salicylic_acid": "OC(=O)c1ccccc1O",
    "malonaldehyde": r"O=C/C=C\O",
    "ethanol": "CCO",
    "cyclohexane": "C1CCCCC1",
}

if __name__ == "__main__":
    molecules = []
    for name, smiles in SMILES.items():
        built = Chem.AddHs(Chem.MolFromSmiles(smiles))
        AllChem.EmbedMultipleConfs(built, numConfs=20, randomSeed=1)
        energies = [energy for _, energy in AllChem.MMFFOptimizeMoleculeConfs(built)]
        best = built.GetConformer(energies.index(min(energies)))
        atoms = Atoms([atom.GetSymbol() for atom in built.GetAtoms()], best.GetPositions())
        atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
        BFGS(atoms, logfile=None).run(fmax=0.005, steps=500)
        atoms.positions -= atoms.positions.mean(axis=0)
        print(
            f"{name:15} {atoms.get_potential_energy():.4f} eV, largest force {abs(atoms.get_forces()).max():.4f} eV/Å"
        )
        molecules.append(Atoms(atoms.numbers, atoms.positions, info={"name": name}))
    ase.io.write(Path(__file__).with_name("molecules.extxyz"), molecules)
