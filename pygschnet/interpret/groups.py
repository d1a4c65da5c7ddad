"""The surroundings of atoms, and the functional groups of a molecule, by their names."""

from collections.abc import Iterator

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula

from pygschnet.interpret.bonds import Bonds

HYBRIDS = {4: "sp3", 3: "sp2", 2: "sp"}
"""Of a carbon, by its number of neighbours."""

ALKYL = {4: "methane", 3: "methyl", 2: "methylene", 1: "methine", 0: "quaternary"}
"""Names of a carbon with four neighbours, by its number of hydrogens."""

NITROGEN = {4: "ammonium", 3: "amine", 2: "imine"}
"""Names of a nitrogen, by its number of neighbours."""


def environments(molecule: Bonds) -> list[str]:
    """A short name for the surroundings of each atom, such as "H on O", "C sp3, CH3" or "C in aromatic ring".

    It follows from the element, the number of neighbours, their elements, and whether the atom is in a ring. What
    has no name of its own is called after its neighbours, such as "O on CN" for an oxygen between carbon and nitrogen.

    Args:
        molecule: its bonds.
    """
    in_ring = {i for ring in molecule.rings for i in ring}
    aromatic = {i for ring in molecule.aromatic for i in ring}
    names = [_environment(molecule, i) for i in range(len(molecule.z))]
    for i in in_ring:
        names[i] = "C in aromatic ring" if i in aromatic else f"{names[i]}, in ring"
    for i in np.flatnonzero(molecule.z == 1).tolist():
        if len(near := molecule.neighbours[i]) == 1 and molecule.z[near[0]] == 6:
            hybrid = HYBRIDS.get(len(molecule.neighbours[near[0]]))
            names[i] = "H on aromatic C" if near[0] in aromatic else f"H on C {hybrid}" if hybrid else "H on C"
    return names


def _environment(molecule: Bonds, i: int) -> str:
    z, near = molecule.z, molecule.neighbours[i]
    hydrogens = _hydrogens(molecule.count(i, 1))
    match int(z[i]), len(near):
        case 6, 2 | 3 if molecule.terminal(i, 8):
            return f"C{hydrogens}=O"
        case 6, 2 if molecule.terminal(i, 7):
            return f"C{hydrogens}≡N"
        case 6, 2 | 3 | 4:
            return f"C {HYBRIDS[len(near)]}, C{hydrogens}"
        case 7, 1 if z[near[0]] == 6 and len(molecule.neighbours[near[0]]) == 2:
            return "N≡C"
        case 7, 2:
            return f"=N{hydrogens or '–'}"
        case 7, 3 if len(molecule.terminal(i, 8)) == 2:
            return "NO2"
        case 7, 3:
            return f"N{hydrogens}" if hydrogens else "tertiary N"
        case 7, 4:
            return f"ammonium N{hydrogens}"
        case 8, 1 if z[near[0]] == 6 and len(molecule.neighbours[near[0]]) < 4:
            return "O=C"
        case 8, 2 if hydrogens:
            return f"O{hydrogens}"
        case 8, 2 if molecule.count(i, 6) == 2:
            return "ether O"
    symbol = chemical_symbols[z[i]]
    return f"{symbol} on {''.join(sorted(chemical_symbols[z[j]] for j in near))}" if near else f"{symbol} alone"


def groups(molecule: Bonds) -> dict[str, list[tuple[int, ...]]]:
    """Functional groups by name, each a tuple of atoms; every atom is in exactly one.

    In this order: rings, those that share atoms being one group, such as "ring C10H8"; carbonyl groups, among them
    "carboxyl COOH" and "aldehyde CHO"; nitrile and nitro groups; then every other atom by itself, such as
    "methylene CH2", "hydroxyl OH", "ether O" or "amine NH2". Hydrogens go with the atom that they are bonded to. An
    amide is a carbonyl group and an amine; an ester is a carbonyl group and an ether.

    Args:
        molecule: its bonds.
    """
    found: dict[str, list[tuple[int, ...]]] = {}
    taken: set[int] = set()
    for name, core in _cores(molecule):
        if not core & taken:
            hydrogens = {h for i in core for h in molecule.terminal(i, 1)}
            found.setdefault(name, []).append(tuple(sorted(core | hydrogens)))
            taken |= core | hydrogens
    return found


def _cores(molecule: Bonds) -> Iterator[tuple[str, set[int]]]:
    """Names and atoms of all groups, without hydrogens; of those that have atoms in common the first counts."""
    z = molecule.z
    for ring in _ring_systems(molecule):
        atoms = [*ring, *(h for i in ring for h in molecule.terminal(i, 1))]
        yield f"ring {_formula(molecule, atoms)}", ring
    in_ring = {i for ring in molecule.rings for i in ring}
    outside = [i for i in np.argsort(-z, kind="stable").tolist() if i not in in_ring]  # hydrogens last
    for i in outside:
        oxygens, nitrogens = molecule.terminal(i, 8), molecule.terminal(i, 7)
        hydroxyls = [j for j in molecule.neighbours[i] if z[j] == 8 and len(molecule.terminal(j, 1)) == 1]
        match int(z[i]), len(molecule.neighbours[i]):
            case 6, 3 if len(oxygens) == len(hydroxyls) == 1:
                yield "carboxyl COOH", {i, *oxygens, *hydroxyls}
            case 6, 1 | 2 | 3 if oxygens:
                yield ("aldehyde CHO" if molecule.terminal(i, 1) else "carbonyl CO"), {i, *oxygens}
            case 6, 2 if nitrogens:
                yield "nitrile CN", {i, *nitrogens}
            case 7, 3 if len(oxygens) == 2:
                yield "nitro NO2", {i, *oxygens}
    for i in outside:
        yield _alone(molecule, i), {i}


def _alone(molecule: Bonds, i: int) -> str:
    """The name of a group of one atom and its hydrogens."""
    symbol, neighbours, count = (
        chemical_symbols[molecule.z[i]],
        len(molecule.neighbours[i]),
        len(molecule.terminal(i, 1)),
    )
    formula = symbol + _hydrogens(count)
    match int(molecule.z[i]), neighbours:
        case 6, 4:
            return f"{ALKYL[count]} {formula}"
        case 6, 2 | 3:
            return f"{HYBRIDS[neighbours]} {formula}"
        case 7, 3 if count == 3:
            return "ammonia NH3"
        case 7, 2 | 3 | 4:
            return f"{NITROGEN[neighbours]} {formula}"
        case 8, 2 if count == 1:
            return "hydroxyl OH"
        case 8, 2 if molecule.count(i, 6) == 2:
            return "ether O"
        case 8, 1 if count == 0:
            return "oxo O"
    return _formula(molecule, [i, *molecule.terminal(i, 1)])


def _ring_systems(molecule: Bonds) -> list[set[int]]:
    """Rings, those that share atoms joined."""
    systems: list[set[int]] = []
    for ring in molecule.rings:
        joined = set(ring).union(*(system for system in systems if system & set(ring)))
        systems = [system for system in systems if not system & joined] + [joined]
    return systems


def _formula(molecule: Bonds, atoms: list[int]) -> str:
    return f"{Formula.from_list([chemical_symbols[molecule.z[i]] for i in atoms]):hill}"


def _hydrogens(count: int) -> str:
    return "" if count == 0 else "H" if count == 1 else f"H{count}"
