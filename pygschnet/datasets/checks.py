"""Are these numbers physically possible? Slips of units show as factors that everybody knows."""

import itertools

import numpy as np
import torch
from ase import units as ase_units
from ase.data import covalent_radii
from torch_geometric.data import Data

from pygschnet.datasets.molecules import Molecules
from pygschnet.graph import RadiusGraph, edge_distances

SAMPLE = 200  # molecules that are looked at
ENERGIES = {"eV": 1.0, "Ha": ase_units.Hartree, "kcal/mol": ase_units.kcal / ase_units.mol}
ENERGIES |= {"kJ/mol": ase_units.kJ / ase_units.mol}
LENGTHS = {"Å": 1.0, "Bohr": ase_units.Bohr, "nm": ase_units.nm, "pm": ase_units.nm / 1000}
FORCES = {f"{energy}/{length}": ENERGIES[energy] / LENGTHS[length] for energy in ENERGIES for length in ("Å", "Bohr")}
TOLERANCE = 0.04
NOBLE_GASES = (2, 10, 18, 36, 54, 86)


def suspicions(molecules: Molecules) -> list[str]:
    """What looks like a slip of units, or of sign, in words.

    Looks at bond lengths, at total energies against those of free atoms, at forces against the slope of the energy
    between neighbouring frames, and at the size of forces, stresses and charges.
    """
    index = np.unique(np.linspace(0, len(molecules) - 1, SAMPLE).astype(int))
    data = molecules.with_edges(None).batch(index)
    found = [_bonds(molecules.with_edges(RadiusGraph(4.0)), index)]
    if "energy" in data:
        found.append(_total_energies(data))
    if "forces" in data:
        found.append(_large(data.forces, "forces", "eV/Å", 15.0))
    if "energy" in data and "forces" in data:
        found.append(_slope(molecules.with_edges(None)))
    if "stress" in data:
        found.append(_large(data.stress, "stresses", "eV/Å³", 0.5))
    if "charges" in data:
        found.append(_large(data.charges, "charges", "e", 3.0))
    return [text for text in found if text]


def work_and_energy(molecules: Molecules, pairs: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """−F̄·Δr and ΔE, in eV, for molecules that follow each other and differ by a small step.

    Their slope is 1 if forces and energies belong together; trapezoidal rule.
    """
    last = min(pairs, len(molecules) - 1)
    works, energies = [np.zeros(0)], [np.zeros(0)]
    for first in range(0, last, 500):
        data = molecules.batch(range(first, min(first + 500, last) + 1))
        sizes = data.ptr.diff()
        for k in range(len(sizes) - 1):
            a, b = (slice(int(data.ptr[i]), int(data.ptr[i + 1])) for i in (k, k + 1))
            if sizes[k] == sizes[k + 1] and torch.equal(data.z[a], data.z[b]):
                step = data.pos[b] - data.pos[a]
                if 0 < step.square().mean().sqrt() < 0.1:
                    works.append(-((data.forces[a] + data.forces[b]) / 2 * step).sum().reshape(1).numpy())
                    energies.append((data.energy[k + 1] - data.energy[k]).reshape(1).numpy())
    return np.concatenate(works), np.concatenate(energies)


def free_atoms(z: np.ndarray) -> np.ndarray:
    """Approximate total energies of free atoms in eV: the Thomas–Fermi series, within a few percent for Z > 1.

    Source: Schwinger, Phys. Rev. A 24, 2353 (1981): −0.7687 Z^(7/3) + Z²/2 − 0.2699 Z^(5/3) Ha.
    """
    z = z.astype(float)
    series = -0.768745 * z ** (7 / 3) + 0.5 * z**2 - 0.269900 * z ** (5 / 3)
    return np.where(z == 1, -0.5, series) * ase_units.Hartree


def _bonds(molecules: Molecules, index: np.ndarray) -> str | None:
    atoms = np.diff(molecules.arrays["ptr"])[index].cumsum()
    data = molecules.batch(index[: max(1, int(np.searchsorted(atoms, 2000)))])
    j, i = data.edge_index
    if len(i) == 0:
        several = (np.diff(molecules.arrays["ptr"])[index] > 1).any()
        return "no two atoms are closer than 4 Å: are positions really in the unit that was given?" if several else None
    radii = torch.from_numpy(covalent_radii)
    bound = ~torch.isin(data.z, torch.tensor(NOBLE_GASES))
    ratios = torch.full((len(data.z),), torch.inf, dtype=torch.float64)
    ratios = ratios.scatter_reduce(0, i, edge_distances(data) / (radii[data.z[i]] + radii[data.z[j]]), "amin")
    ratios = ratios[ratios.isfinite() & bound]
    ratio = float(ratios.median()) if len(ratios) else 1.0
    if 0.7 < ratio < 1.5:
        return None
    names = [f"{b} given as {a}" for a, b in _pairs(LENGTHS) if 0.8 < ratio * LENGTHS[b] / LENGTHS[a] < 1.3]
    return f"nearest neighbours are {ratio:.2f} times the sum of their covalent radii apart{_perhaps(names)}"


def _total_energies(data: Data) -> str | None:
    ratio = float(data.energy.sum() / free_atoms(data.z.numpy()).sum())
    names = [f"{b} given as {a}" for a, b in _pairs(ENERGIES) if _near(ratio, ENERGIES[a] / ENERGIES[b])]
    if names and ratio > 0.03 and not _near(ratio, 1.0):  # below are energies of formation and pseudopotentials
        return f"energies are {ratio:.4g} times the total energies of the atoms{_perhaps(names)}"
    return None


def _slope(molecules: Molecules) -> str | None:
    work, energy = work_and_energy(molecules, 500)
    if len(work) < 20 or work.std() == 0 or energy.std() == 0 or abs(np.corrcoef(work, energy)[0, 1]) < 0.95:
        return None
    slope = float(work @ energy / (work @ work))
    if abs(slope - 1) < 0.1:
        return None
    names = ["they are gradients, of the opposite sign"] if abs(slope + 1) < 0.1 else []
    names += ["forces per Å given as forces per Bohr"] if _near(slope, LENGTHS["Bohr"]) else []
    names += [
        f"energies in {energy} with forces in {force}"
        for energy, force in itertools.product(ENERGIES, FORCES)
        if _near(slope, ENERGIES["eV"] / ENERGIES[energy] * FORCES[force]) and not force.startswith(f"{energy}/Å")
    ]
    return f"along the frames the energy changes by {slope:.4g} times the work of the forces{_perhaps(names[:3])}"


def _large(values: torch.Tensor, name: str, unit: str, limit: float) -> str | None:
    size = float(values.square().mean().sqrt())
    return f"{name} have a root mean square of {size:.3g} {unit}, which is unusually large" if size > limit else None


def _pairs(table: dict[str, float]) -> itertools.permutations:
    return itertools.permutations(table, 2)


def _near(value: float, factor: float) -> bool:
    return abs(value / factor - 1) < TOLERANCE


def _perhaps(names: list[str]) -> str:
    return f": perhaps {' or '.join(names)}" if names else ""
