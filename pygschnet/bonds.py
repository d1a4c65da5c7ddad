"""Bond types: those given with the data, or perceived from the geometry by RDKit."""

from functools import lru_cache

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Int
from torch import Tensor
from torch_geometric.data import Data

from pygschnet.errors import InputError
from pygschnet.graph import molecule_index

BOND_TYPES = ("none", "single", "double", "triple", "aromatic")
"""By their number."""

REACH = 1.15
"""Sums of covalent radii up to which atoms are bonded. RDKit's default, 1.3, takes the facing corners of small rings
for bonds and then fails on 5 % of QM9."""

TRIALS = 10_000
"""Valences that RDKit tries for a molecule before it gives up; without a limit a few molecules take hours."""


def bond_types(data: Data) -> Int[Tensor, "edges"]:
    """The bond of every edge: 0 none, 1 single, 2 double, 3 triple, 4 aromatic.

    From the field `edge_type` of the data where it is given, in the order of `edge_index`. Else RDKit perceives the
    bonds from elements, positions and the field `charge`; the last 2¹⁸ geometries are remembered. Perceived bonds are
    decisions with thresholds: they have no derivative, and jump as atoms move.

    Args:
        data: one molecule or a PyG batch, with edges.

    Raises:
        InputError: for an `edge_type` that does not fit the edges, for periodic systems, if RDKit is not installed, or
            if it finds no bonds that agree with the charge.

    Source: Kim and Kim, Bull. Korean Chem. Soc. 36, 1769 (2015), for the perception.
    """
    if "edge_type" in data:
        return _given(data)
    if "cell" in data and data.pbc.any():
        raise InputError("bond types are perceived in molecules only: give those of a crystal in the field edge_type")
    batch, molecules = molecule_index(data)
    sizes = torch.bincount(batch, minlength=molecules).tolist()
    charges = data.charge.tolist() if "charge" in data else [0.0] * molecules
    z, pos = data.z.tolist(), data.pos.detach().cpu().double().numpy()
    tables, first = [], 0
    for size, charge in zip(sizes, charges, strict=True):
        atoms = slice(first, first + size)
        tables.append(_perceive(tuple(z[atoms]), pos[atoms].tobytes(), round(charge)).ravel())
        first += size
    source, target = data.edge_index.cpu()
    of_molecule = torch.tensor(sizes)
    square, atom = of_molecule.square(), of_molecule.cumsum(0) - of_molecule
    molecule = batch.cpu()[target]
    place = (target - atom[molecule]) * of_molecule[molecule] + source - atom[molecule]
    flat = torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *tables]))
    return flat[(square.cumsum(0) - square)[molecule] + place].to(data.edge_index.device)


def _given(data: Data) -> Tensor:
    types: Tensor = data.edge_type
    if types.shape != data.edge_index.shape[1:] or types.is_floating_point():
        raise InputError(
            f"edge_type should hold one integer for each of the {data.edge_index.shape[1]} edges, its shape is "
            f"{list(types.shape)} and its type {types.dtype}"
        )
    if len(wrong := types[(types < 0) | (types >= len(BOND_TYPES))]):
        meanings = ", ".join(f"{number} {name}" for number, name in enumerate(BOND_TYPES))
        raise InputError(f"edge_type holds {wrong[0]}: use {meanings}")
    return types.long()


@lru_cache(maxsize=2**18)
def _perceive(numbers: tuple[int, ...], positions: bytes, charge: int) -> np.ndarray:
    """The bond type of each pair of atoms."""
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem import rdDetermineBonds
    except ImportError:
        raise InputError(
            "bond types need RDKit, which is not installed: pip install 'pygschnet[bonds]', or give them in the "
            "field edge_type"
        ) from None
    molecule, conformer = Chem.RWMol(), Chem.Conformer(len(numbers))
    for number in numbers:
        atom = Chem.Atom(chemical_symbols[number])
        atom.SetNoImplicit(True)
        molecule.AddAtom(atom)
    conformer.SetPositions(np.frombuffer(positions).reshape(-1, 3))
    molecule.AddConformer(conformer)
    with rdBase.BlockLogs():
        try:
            rdDetermineBonds.DetermineBonds(
                molecule, charge=charge, useVdw=True, covFactor=REACH, embedChiral=False, maxIterations=TRIALS
            )
            Chem.SanitizeMol(molecule)
        except (ValueError, RuntimeError) as error:
            formula = Atoms(list(numbers)).get_chemical_formula()
            raise InputError(
                f"RDKit finds no bonds for this {formula} of charge {charge} e ({str(error).splitlines()[0]}): "
                "check the charge, leave the molecule out, or give its bonds in the field edge_type"
            ) from None
    types = np.zeros((len(numbers), len(numbers)), dtype=np.int64)
    of_bond = {getattr(Chem.BondType, name.upper()): number for number, name in enumerate(BOND_TYPES) if number}
    for bond in molecule.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        types[i, j] = types[j, i] = of_bond[bond.GetBondType()]
    return types
