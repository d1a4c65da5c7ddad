"""Errors of a model on labelled data, batch by batch: arrays out, a few numbers per structure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch_geometric.data import Data
from tqdm import tqdm

from pygschnet.datasets import MoleculeData, Molecules
from pygschnet.datasets.border import isolated_atoms
from pygschnet.datasets.sampler import BatchSampler
from pygschnet.elements import MAX_Z
from pygschnet.errors import InputError
from pygschnet.graph import RadiusGraph
from pygschnet.model import AtomisticModel, Prediction
from pygschnet.units import UNITS

DRAWN = 20_000
"""Structures, and atoms, whose values are kept to be drawn, if there are more."""

VOIGT = ([0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1])
"""Where xx, yy, zz, yz, xz and xy stand in a tensor."""

PER_ATOM = "energy per atom"


class Values(NamedTuple):
    """Reference and predicted values of one quantity in a batch.

    Attributes:
        reference: from the data [rows, components].
        predicted: by the model [rows, components].
        owner: the structure of each row.
        z: the element of each row; empty if rows are not atoms.
    """

    reference: Float[np.ndarray, "rows components"]
    predicted: Float[np.ndarray, "rows components"]
    owner: Int[np.ndarray, "rows"]
    z: Int[np.ndarray, "atoms"]


class Sums:
    """What is left of the errors of each of many groups: how many, their sum, those of |error| and error², the largest.

    Args:
        groups: how many.
    """

    def __init__(self, groups: int):
        self.count = np.zeros(groups, np.int64)
        self.signed, self.absolute, self.square, self.largest = np.zeros((4, groups))

    def add(self, groups: Int[np.ndarray, "rows"], errors: Float[np.ndarray, "rows components"]) -> None:
        """Add errors, each row to its group."""
        absolute = np.abs(errors)
        np.add.at(self.count, groups, errors.shape[1])
        np.add.at(self.signed, groups, errors.sum(1))
        np.add.at(self.absolute, groups, absolute.sum(1))
        np.add.at(self.square, groups, (absolute**2).sum(1))
        np.maximum.at(self.largest, groups, absolute.max(1))

    def over(self, groups: np.ndarray | slice = slice(None)) -> dict[str, float]:
        """MAE, RMSE, mean and largest error of some groups together; not a number if they hold nothing."""
        count = self.count[groups].sum() or np.nan
        return {
            "mae": float(self.absolute[groups].sum() / count),
            "rmse": float(np.sqrt(self.square[groups].sum() / count)),
            "mean": float(self.signed[groups].sum() / count),
            "largest": float(self.largest[groups].max(initial=0.0)),
        }


@dataclass
class Evaluation:
    """The errors of a model, in the units of the package.

    Attributes:
        index: the structures that were evaluated, by their number in the data [structures].
        sums: errors of each structure by quantity: "energy", "energy per atom", "forces" (components), "stress" (its
            six components, where there is a volume), and other properties.
        elements: errors of the forces on the atoms of each element, by atomic number.
        drawn: values by quantity, the rows of many batches; of a random part if there are many.
        units: by quantity.
    """

    index: np.ndarray
    sums: dict[str, Sums]
    elements: Sums
    drawn: dict[str, Values]
    units: dict[str, str]


def choose(data: MoleculeData, part: str) -> Int[np.ndarray, "structures"]:
    """The structures of a part of the data.

    Args:
        data: set up.
        part: "train", "val" or "test"; or "all", which leaves isolated atoms out, if there is anything else.
    """
    if part != "all":
        return data.split[part].numpy()
    single = isolated_atoms(np.diff(data.store["ptr"]), data.store.get("pbc"))
    return np.arange(len(single)) if single.all() else np.flatnonzero(~single)


def errors_of(
    model: AtomisticModel,
    data: MoleculeData,
    index: Int[np.ndarray, "structures"],
    device: torch.device,
    max_edges: int,
) -> Evaluation:
    """Evaluate a model, in memory that grows with the data by a few numbers per structure only.

    Args:
        model: on the device.
        data: set up.
        index: the structures.
        device: to compute on.
        max_edges: atoms and edges in a batch; a structure with more is a batch of its own.

    Raises:
        InputError: for data without labels, structures that the model cannot take, or predictions that are not numbers.
    """
    units = UNITS | data.label_units() | {PER_ATOM: UNITS["energy"]}
    labels = check(model, data, index)
    names = [name for label in labels for name in ((label, PER_ATOM) if label == "energy" else (label,))]
    result = Evaluation(index, {name: Sums(len(index)) for name in names}, Sums(MAX_Z + 1), {}, units)
    kept: dict[str, list[Values]] = {name: [] for name in names}
    chance = {False: DRAWN / len(index), True: DRAWN / np.diff(data.store["ptr"])[index].sum()}
    rng = np.random.default_rng(0)
    for rows, batch, prediction in _predictions(model, data, index, device, max_edges, labels):
        for name, values in _values(batch, prediction, model.labels(batch)).items():
            broken = ~np.isfinite(values.predicted).all(1)
            if broken.any():
                first = index[rows[values.owner[broken.argmax()]]]
                raise InputError(f"the model predicts {name} of structure {first} that are not numbers: it is broken")
            errors = values.predicted - values.reference
            result.sums[name].add(rows[values.owner], errors)
            if name == "forces":
                result.elements.add(values.z, errors)
            some = rng.random(len(errors)) < chance[name == "forces"]
            kept[name].append(Values(*(array[some[: len(array)]] for array in values)))
    result.drawn = {name: Values(*map(np.concatenate, zip(*parts, strict=True))) for name, parts in kept.items()}
    return result


def check(model: AtomisticModel, data: MoleculeData, index: np.ndarray) -> list[str]:
    """Refuse what cannot be evaluated, before time is spent.

    Returns:
        The labels that can be compared with predictions.

    Raises:
        InputError: for no structures, no labels, crystals without a cutoff, or elements that the model has not been
            trained on, naming the first structure that has one.
    """
    fields, ptr = data.label_units().keys(), data.store["ptr"]
    labels = [name for name in ("energy", "forces", "stress", *model.properties) if name in fields]
    if len(index) == 0:
        raise InputError("there are no structures in this part of the data: choose another")
    if not labels:
        others = ", ".join(sorted(fields - {"z", "pos", "cell", "pbc"})) or "positions only"
        raise InputError(
            f"{', '.join(map(str, data.files()))} has no energy, forces or stress to compare with, but {others}: "
            "if the file has them under other names, give these with --data Files --data.keys"
        )
    if model.cutoff is None and "pbc" in data.store:
        raise InputError("these structures are periodic, but the model takes all pairs: train one with a cutoff")
    chosen = np.zeros(len(ptr) - 1, bool)
    chosen[index] = True
    unknown = ~model.head.elements.cpu().numpy()[data.store["z"]] & np.repeat(chosen, np.diff(ptr))
    if model.head.fitted and unknown.any():
        atom = int(unknown.argmax())
        symbol, structure = chemical_symbols[data.store["z"][atom]], int(np.searchsorted(ptr, atom, "right")) - 1
        raise InputError(
            f"structure {structure} holds {symbol}, "
            f"but the model has been trained on {', '.join(known_elements(model))} only: leave it out, or train on it"
        )
    return labels


def known_elements(model: AtomisticModel) -> list[str]:
    """Symbols of the elements that a model has been trained on."""
    return [chemical_symbols[number] for number in model.head.elements.nonzero().flatten().tolist()]


def _predictions(
    model: AtomisticModel,
    data: MoleculeData,
    index: np.ndarray,
    device: torch.device,
    max_edges: int,
    labels: list[str],
) -> Iterator[tuple[np.ndarray, Data, Prediction]]:
    """Batch by batch: which of `index` are in it, the batch, and what the model predicts."""
    assert data.molecules is not None, "setup has not been called"
    graph = RadiusGraph(model.cutoff, data.graph.backend)
    molecules = data.molecules if data.graph.cutoff == graph.cutoff else data.molecules.with_edges(graph)
    sizes = _sizes(molecules, index, graph.cutoff)
    with tqdm(total=len(index), desc="evaluating", unit=" structures", delay=1, leave=False) as progress:
        for numbers in BatchSampler(sizes, max(max_edges, int(sizes.max()))):
            rows = np.array(numbers)
            try:
                batch = molecules.batch(index[rows]).to(device)
                with torch.no_grad():
                    prediction = model(batch, forces="forces" in labels, stress="stress" in labels)
            except InputError as error:
                raise InputError(f"among the structures {index[rows[0]]} to {index[rows[-1]]}: {error}") from None
            yield rows, batch, prediction
            progress.update(len(rows))


def _sizes(molecules: Molecules, index: np.ndarray, cutoff: float) -> Int[np.ndarray, "structures"]:
    """Atoms and edges of each structure: of molecules at most, of crystals about."""
    atoms = np.diff(molecules.arrays["ptr"])[index]
    edges = atoms * (atoms - 1.0)
    if "cell" in molecules.arrays:
        volumes = np.abs(np.linalg.det(molecules.arrays["cell"][index]))
        sphere = 4 / 3 * np.pi * cutoff**3
        edges = np.where(volumes > 0, atoms**2 * sphere / np.maximum(volumes, 1e-3), edges)
    return (atoms + edges).astype(np.int64)


def _values(batch: Data, prediction: Prediction, labels: dict[str, torch.Tensor]) -> dict[str, Values]:
    """The values of each quantity in a batch."""
    predicted, nothing = prediction._asdict() | prediction.properties, np.zeros(0, np.int64)
    molecules, values = np.arange(len(batch.ptr) - 1), {}
    for name, label in labels.items():
        reference, given = (each.cpu().double().numpy() for each in (label, predicted[name]))
        if name == "forces":
            values[name] = Values(reference, given, batch.batch.cpu().numpy(), batch.z.cpu().numpy())
        elif name == "stress":
            with_volume = batch.pbc.any(1) & (torch.linalg.det(batch.cell).abs() > 0)
            owner = with_volume.cpu().numpy().nonzero()[0]
            values[name] = Values(reference[owner][:, *VOIGT], given[owner][:, *VOIGT], owner, nothing)
        else:
            reference, given = (each.reshape(len(molecules), -1) for each in (reference, given))
            values[name] = Values(reference, given, molecules, nothing)
    if "energy" in values:
        atoms = batch.ptr.diff().cpu().numpy()[:, None]
        energy = values["energy"]
        values[PER_ATOM] = Values(energy.reference / atoms, energy.predicted / atoms, molecules, nothing)
    return values
