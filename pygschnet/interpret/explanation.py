"""Everything that a report shows, computed."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Float, Int

from pygschnet.errors import InputError
from pygschnet.interpret.attribution import Attribution, attribute, sensitivity
from pygschnet.interpret.bonds import bonds
from pygschnet.interpret.contributions import Contributions, compare, contributions
from pygschnet.interpret.embedding import Embedding, embedding_components
from pygschnet.interpret.filters import FilterCuts, filter_curves, filter_cuts
from pygschnet.interpret.groups import environments, groups
from pygschnet.interpret.patterns import Patterns
from pygschnet.interpret.probe import local_chemical_potential
from pygschnet.interpret.space import Plane, Surface, isosurface, plane
from pygschnet.interpret.walks import Walks, walk_relevance
from pygschnet.model import AtomisticModel

Part = TypeVar("Part")

LEVEL = 3.8
"""Σ‖r − r_i‖⁻² on the surface, in Å⁻² (DTNN, arXiv:1609.08259)."""

HEIGHTS = (0.0, 1.75)
"""Of the planes above the plane of the molecule, in Å."""

EXTENT = 10.0
"""Side of the cuts through filters, in Å (Fig. 3 of arXiv:1706.08566)."""


class Space(NamedTuple):
    """Ω_A around a molecule.

    Attributes:
        surface: where Σ‖r − r_i‖⁻² is `LEVEL`.
        on_surface: Ω on its vertices, in eV.
        planes: through the molecule and above it.
        in_planes: Ω in each, in eV.
    """

    surface: Surface
    on_surface: Float[np.ndarray, "probes vertices"]
    planes: list[Plane]
    in_planes: list[Float[np.ndarray, "probes rows columns"]]


class MoleculeExplanation(NamedTuple):
    """What a model says of one molecule.

    Attributes:
        name: of the molecule.
        atoms: the molecule.
        bonds: pairs of atoms; none for crystals.
        environments: of the atoms, in words; empty for crystals.
        groups: functional groups by name; none for crystals.
        contributions: energies of the atoms.
        spread: standard deviation of their network part over models of other seeds, in eV.
        sensitivity: how strongly the energy depends on the embedding of each atom, in eV; None without embeddings.
        walks: relevances of walks; None if there would be too many.
        attribution: of the energies of the atoms to their features; None without patterns.
        space: Ω around the molecule; None for crystals.
        left_out: what is missing, and why.
        seconds: that each part took.
    """

    name: str
    atoms: Atoms
    bonds: Int[np.ndarray, "bonds 2"]
    environments: list[str]
    groups: dict[str, list[tuple[int, ...]]]
    contributions: Contributions
    spread: Float[np.ndarray, "atoms"] | None
    sensitivity: Float[np.ndarray, "atoms"] | None
    walks: Walks | None
    attribution: Attribution | None
    space: Space | None
    left_out: list[str]
    seconds: dict[str, float]


class ModelExplanation(NamedTuple):
    """What a model says of elements and distances.

    Attributes:
        embedding: principal components of the embeddings; None if there are fewer than two elements.
        distances: at which the filters are given, in Å.
        curves: filters at these.
        cuts: filters in a plane of `EXTENT` × `EXTENT` Å; None if the representation has none.
        left_out: what is missing, and why.
    """

    embedding: Embedding | None
    distances: Float[np.ndarray, "distances"]
    curves: Float[np.ndarray, "blocks distances filters"] | None
    cuts: FilterCuts | None
    left_out: list[str]


def explain_model(model: AtomisticModel) -> ModelExplanation:
    """Embeddings and filters of a model.

    Args:
        model: a trained model.
    """
    left_out: list[str] = []
    distances = np.linspace(0.0, EXTENT / np.sqrt(2), 400)
    embedding = _unless(left_out, "embeddings", lambda: embedding_components(model))
    curves = _unless(left_out, "filters", lambda: filter_curves(model, distances))
    cuts = None if curves is None else filter_cuts(model, EXTENT, 61)
    return ModelExplanation(embedding, distances, curves, cuts, left_out)


def explain_molecule(
    model: AtomisticModel,
    atoms: Atoms,
    name: str = "molecule",
    probes: Sequence[str] = ("H", "C", "N", "O"),
    others: Sequence[AtomisticModel] = (),
    patterns: Patterns | None = None,
    spacing: float = 0.25,
) -> MoleculeExplanation:
    """Everything that a model says of a molecule.

    Args:
        model: a trained model.
        atoms: the molecule, or a crystal, for which there are fewer explanations.
        name: of the molecule.
        probes: elements for Ω.
        others: models of other seeds, for the spread of the contributions.
        patterns: for the attribution to features.
        spacing: of the grid from which the surface is made, in Å.

    Raises:
        InputError: for structures that the model cannot take.
    """
    left_out: list[str] = []
    clock = Clock()
    found = contributions(model, atoms)
    spread = compare([model, *others], atoms).spread if others else None
    clock.stop("contributions")
    geometry = _unless(left_out, "bonds and groups", lambda: bonds(atoms))
    pairs = np.zeros((0, 2), np.int64) if geometry is None else geometry.pairs
    words = [] if geometry is None else environments(geometry)
    parts = {} if geometry is None else groups(geometry)
    clock.stop("bonds and groups")
    strength = _unless(left_out, "sensitivity", lambda: sensitivity(model, atoms))
    walks = _unless(left_out, "walks", lambda: walk_relevance(model, atoms))
    clock.stop("walks")
    attribution = None
    if patterns is not None:
        method = "pattern_attribution"
        attribution = _unless(left_out, "patterns", lambda: attribute(model, atoms, method, patterns))
    clock.stop("patterns")
    space = _unless(left_out, "Ω on surfaces and in planes", lambda: explain_space(model, atoms, probes, spacing))
    clock.stop("local chemical potential")
    return MoleculeExplanation(
        name, atoms, pairs, words, parts, found, spread, strength, walks, attribution, space, left_out, clock.seconds
    )


def explain_space(model: AtomisticModel, atoms: Atoms, probes: Sequence[str], spacing: float) -> Space:
    """Ω on the surface and in planes.

    Args:
        model: a trained model.
        atoms: a molecule.
        probes: elements of the probe.
        spacing: of the grid from which the surface is made, in Å.

    Raises:
        InputError: for crystals, and models whose energy is no sum over atoms.
    """
    if atoms.pbc.any():
        raise InputError("they are for molecules, and this is periodic")
    surface = isosurface(atoms.positions, LEVEL, spacing)
    planes = [plane(atoms.positions, height=height) for height in HEIGHTS]
    places = [surface.vertices, *(each.points for each in planes)]
    on_surface, *in_planes = [local_chemical_potential(model, atoms, points, probes) for points in places]
    return Space(surface, on_surface, planes, in_planes)


def ranges(probes: Sequence[str], explained: Sequence[MoleculeExplanation]) -> dict[str, tuple[float, float]]:
    """The 2nd and 98th percentile of Ω on all surfaces, in eV, by probe: the ends of the colours.

    Args:
        probes: elements of the probe.
        explained: the molecules.
    """
    ends = {}
    for row, probe in enumerate(probes):
        values = [each.space.on_surface[row] for each in explained if each.space is not None]
        if values:
            low, high = np.percentile(np.concatenate(values), [2, 98])
            ends[probe] = float(low), float(max(high, low + 1e-6))
    return ends


def trained_probes(model: AtomisticModel, probes: Sequence[str] | None) -> list[str]:
    """The elements of the probe: those asked for, or H, C, N and O as far as the model knows them.

    Args:
        model: knows its elements.
        probes: symbols.

    Raises:
        InputError: for what is no element, or none of the model's.
    """
    known = [chemical_symbols[z] for z in model.head.elements.nonzero().flatten().tolist()]
    for symbol in probes or ():
        if symbol not in atomic_numbers:
            raise InputError(f"{symbol!r} is no element: probes are symbols such as H,C,N,O")
        if known and symbol not in known:
            raise InputError(f"this model has not been trained on {symbol}, only on {', '.join(known)}: no such probe")
    return list(probes) if probes else [symbol for symbol in ("H", "C", "N", "O") if not known or symbol in known]


def _unless(left_out: list[str], part: str, compute: Callable[[], Part]) -> Part | None:
    """What `compute` gives; None, with the reason noted, for what this model or structure has not."""
    try:
        return compute()
    except InputError as error:
        left_out.append(f"{part}: {error}")
        return None


class Clock:
    """Seconds of each part of some work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, part: str) -> None:
        """A part is done."""
        now = time.perf_counter()
        self.seconds[part], self._last = now - self._last, now


def arrays(explained: MoleculeExplanation, probes: Sequence[str]) -> Mapping[str, Any]:
    """The numbers of a molecule by name, in eV and Å, for an npz file.

    Args:
        explained: the molecule.
        probes: elements of the probe.
    """
    found = {
        "z": explained.atoms.numbers,
        "pos": explained.atoms.positions,
        "network": explained.contributions.network,
        "references": explained.contributions.references,
        "probes": np.array(probes),
        **explained.contributions.properties,
    }
    if explained.sensitivity is not None:
        found["sensitivity"] = explained.sensitivity
    if explained.walks is not None:
        found |= {"walks": explained.walks.walks, "walk_relevance": explained.walks.relevance}
    if explained.attribution is not None:
        found["attribution"] = explained.attribution.relevance
    if (space := explained.space) is not None:
        found |= {"vertices": space.surface.vertices, "faces": space.surface.faces, "omega": space.on_surface}
        for number, (each, values) in enumerate(zip(space.planes, space.in_planes, strict=True)):
            found |= {f"plane_{number}": each.points, f"plane_{number}_omega": values}
    return found
