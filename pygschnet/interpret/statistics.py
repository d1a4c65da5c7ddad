"""Contributions over many molecules: per element, per environment, and of rings of six carbons."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Bool, Float, Int
from torch_geometric.data import Batch, Data

from pygschnet.errors import InputError
from pygschnet.graph import from_atoms
from pygschnet.interpret.bonds import FLAT, Bonds, carbon_rings, flatness
from pygschnet.interpret.contributions import atomic_parts, rank_correlation
from pygschnet.interpret.groups import environments
from pygschnet.interpret.molecule import graph_of
from pygschnet.model import AtomisticModel

AT_ONCE = 100
"""Molecules that are predicted at once where they come one by one."""


class Environments(NamedTuple):
    """Network contributions in eV, for each element and then for each of its environments.

    Attributes:
        names: of the environments; of elements the symbol.
        z: atomic numbers.
        atoms: how many there were.
        mean: of their contributions.
        deviation: population standard deviation.
        lowest: the smallest contribution.
        highest: the largest.
        edges: of the bins of the histogram, the same for all environments of an element.
        histogram: how many atoms are in each bin.
    """

    names: list[str]
    z: Int[np.ndarray, "environments"]
    atoms: Int[np.ndarray, "environments"]
    mean: Float[np.ndarray, "environments"]
    deviation: Float[np.ndarray, "environments"]
    lowest: Float[np.ndarray, "environments"]
    highest: Float[np.ndarray, "environments"]
    edges: Float[np.ndarray, "environments edges"]
    histogram: Int[np.ndarray, "environments bins"]


class RingStability(NamedTuple):
    """Rings of six carbons, the most stable first, by the mean over the models.

    Attributes:
        molecule: which of the molecules, from 0.
        atoms: of the ring, in its order.
        flatness: smallest singular value of the centred positions, Å.
        planar: whether it is below 0.1 Å.
        energy: E_ring = Σ_{i∈ring} E_i of each model, network contributions, eV.
        rank_correlation: Spearman's ρ between each two models over all rings.
    """

    molecule: Int[np.ndarray, "rings"]
    atoms: Int[np.ndarray, "rings 6"]
    flatness: Float[np.ndarray, "rings"]
    planar: Bool[np.ndarray, "rings"]
    energy: Float[np.ndarray, "models rings"]
    rank_correlation: Float[np.ndarray, "models models"]


def environment_statistics(
    model: AtomisticModel, molecules: Iterable[Atoms | Data | Batch], bins: int = 60
) -> Environments:
    """Network contributions per element and per environment; only numbers are kept of molecules that have been read.

    Args:
        model: a trained model.
        molecules: structures one by one, or in batches.
        bins: of the histogram of each element.

    Raises:
        InputError: for no molecules, fewer than one bin, crystals, and structures that the model cannot take.

    Source: arXiv:1806.10349.
    """
    if bins < 1:
        raise InputError(f"a histogram needs at least one bin, got {bins}")
    codes: dict[tuple[int, str], int] = {}
    kinds, values = [], []
    for molecule, (network,) in _contributions([model], molecules):
        keys = zip(molecule.z.tolist(), environments(molecule), strict=True)
        kinds.append(np.array([codes.setdefault(key, len(codes)) for key in keys]))
        values.append(network)
    if not values:
        raise InputError("statistics need at least one molecule")
    kind, value = np.concatenate(kinds), np.concatenate(values)
    order, rows = sorted(codes), []
    elements = {z: [codes[key] for key in order if key[0] == z] for z, _ in order}
    for z, members in elements.items():
        of_element = value[np.isin(kind, members)]
        edges = np.histogram_bin_edges(of_element, bins)
        rows.append((chemical_symbols[z], z, *_moments(of_element, edges)))
        rows += [(key[1], z, *_moments(value[kind == codes[key]], edges)) for key in order if key[0] == z]
    names, *columns = zip(*rows, strict=True)
    return Environments(list(names), *(np.array(column) for column in columns))


def ring_stability(models: Sequence[AtomisticModel], molecules: Iterable[Atoms | Data | Batch]) -> RingStability:
    """All rings of six carbons, by the energy that the models find in them: E_ring = Σ_{i∈ring} E_i.

    The energies of the isolated atoms are left out: they are the same in all of these rings. What the models say of
    single atoms is not unique; the order of the rings is worth as much as seeds agree on it.

    Args:
        models: one or more, such as seeds.
        molecules: structures one by one, or in batches.

    Raises:
        InputError: for no models, crystals, and structures that a model cannot take.

    Source: Schütt et al., Nat. Commun. 8, 13890 (2017).
    """
    if not models:
        raise InputError("ring stability needs at least one model")
    index, rings, flat, energies = [], [], [], []
    for number, (molecule, networks) in enumerate(_contributions(models, molecules)):
        for ring in carbon_rings(molecule):
            index.append(number)
            rings.append(ring)
            flat.append(flatness(molecule.pos[list(ring)]))
            energies.append([network[list(ring)].sum() for network in networks])
    energy = np.array(energies, dtype=np.float64).reshape(-1, len(models)).T
    best = np.argsort(energy.mean(axis=0), kind="stable")
    flatnesses = np.array(flat, dtype=np.float64)[best]
    atoms = np.array(rings, dtype=np.int64).reshape(-1, 6)[best]
    agreement = rank_correlation(energy)
    return RingStability(
        np.array(index, dtype=np.int64)[best], atoms, flatnesses, flatnesses < FLAT, energy[:, best], agreement
    )


def _contributions(
    models: Sequence[AtomisticModel], molecules: Iterable[Atoms | Data | Batch]
) -> Iterator[tuple[Bonds, list[Float[np.ndarray, "atoms"]]]]:
    """Of each molecule its bonds, and the network contributions of each model, in eV."""
    for batch in _batches(molecules):
        networks = [atomic_parts(model, graph_of(model, batch))[0] for model in models]
        z, pos, ptr = batch.z.cpu().numpy(), batch.pos.detach().cpu().numpy(), batch.ptr.tolist()
        for first, last in pairwise(ptr):
            yield Bonds(z[first:last], pos[first:last]), [network[first:last] for network in networks]


def _batches(molecules: Iterable[Atoms | Data | Batch]) -> Iterator[Batch]:
    """Batches as they are; single molecules, without whatever else comes with them, put together."""
    single: list[Data] = []
    for each in molecules:
        data = from_atoms(each, labels=False) if isinstance(each, Atoms) else each
        if "cell" in data:
            raise InputError("environments and rings are those of molecules, and this system is periodic")
        if isinstance(data, Batch):
            yield data
            continue
        single.append(Data(z=data.z, pos=data.pos))
        if len(single) == AT_ONCE:
            yield Batch.from_data_list(single)
            single = []
    if single:
        yield Batch.from_data_list(single)


def _moments(values: Float[np.ndarray, "atoms"], edges: Float[np.ndarray, "edges"]) -> tuple:
    """Count, mean, deviation, smallest, largest, edges and histogram."""
    histogram = np.histogram(values, edges)[0]
    return len(values), values.mean(), values.std(), values.min(), values.max(), edges, histogram
