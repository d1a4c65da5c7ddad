"""Molecules in flat arrays: a batch is a few gathers instead of thirty-two Python objects."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Batch, Data
from tqdm import tqdm

from pygschnet.datasets.store import Columns, Store
from pygschnet.graph import RadiusGraph

CHUNK = 20_000  # atoms whose edges are found at once
MANY = 2_000_000  # molecules, above which it is not asked whether all have the same size

_EMPTY_BATCH = Batch()  # a copy is ten times faster than another one
_NUMBERS = np.arange(1 << 15)


class Molecules(Dataset):
    """Molecules, their labels and their edges. An item is a `Data`; `batch` gives many at once.

    Args:
        arrays: z and pos of all molecules, one after the other; ptr, the first atom of each and the number of atoms;
            labels with a row per atom or per molecule.
        per_atom: names of the arrays with a row per atom, z and pos among them.
        per_molecule: names of those with a row per molecule.
        graph: how edges are found when a batch is made, if `edges` are not given; null for no edges.
        edges: arrays as `write_edges` makes them, for the cutoff of `graph`.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        per_atom: Sequence[str],
        per_molecule: Sequence[str],
        graph: RadiusGraph | None,
        edges: Mapping[str, np.ndarray] | None = None,
    ):
        self.arrays, self.edges, self.graph = arrays, edges, graph
        self.per_atom, self.per_molecule = tuple(per_atom), tuple(per_molecule)
        self._atoms = {name: reader(arrays, name) for name in per_atom}
        self._molecules = {name: reader(arrays, name) for name in per_molecule}
        self._gather = Gather(arrays["ptr"])
        if edges is not None:
            self._gather_edges = Gather(edges["edge_ptr"])
            self._edge_index = reader(edges, "edge_index", widen=False)
            self._edge_shift = reader(edges, "edge_shift") if "edge_shift" in edges else None
        self._constants = _constants(1)

    def __reduce__(self) -> tuple[type["Molecules"], tuple[Any, ...]]:
        return Molecules, (self.arrays, self.per_atom, self.per_molecule, self.graph, self.edges)

    def __len__(self) -> int:
        return len(self.arrays["ptr"]) - 1

    def __getitem__(self, index: int) -> Data:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no molecule {index}, only 0 to {len(self) - 1}")
        return self.batch([index])[0]

    def with_edges(self, graph: RadiusGraph | None, edges: Mapping[str, np.ndarray] | None = None) -> "Molecules":
        """The same molecules with other edges."""
        return Molecules(self.arrays, self.per_atom, self.per_molecule, graph, edges)

    def batch(self, indices: Sequence[int] | np.ndarray | Tensor) -> Batch:
        """The molecules of these indices as one PyG batch."""
        index = np.asarray(indices, np.int64)
        constants = self._constants  # of the last batch, which mostly has the same size
        if len(constants[1]) != len(index):
            constants = self._constants = _constants(len(index))
        counting, zeros, ones = constants
        one_each = index, ones, index
        ranges, ptr = self._gather(index)
        atoms = {name: torch.from_numpy(read(ranges)) for name, read in self._atoms.items()}
        molecules = {name: torch.from_numpy(read(one_each)) for name, read in self._molecules.items()}
        fields = atoms | molecules
        fields["batch"] = torch.from_numpy(_count(len(index)).repeat(ranges[1]))
        fields["ptr"] = torch.from_numpy(ptr)
        edges, edge_ptr = self._edges(fields, index, ptr)
        # what PyG needs to take the batch apart again
        slices = dict.fromkeys(atoms, fields["ptr"]) | dict.fromkeys(molecules, counting)
        slices |= {name: counting if name == "edge_cutoff" else edge_ptr for name in edges}
        increments = dict.fromkeys(slices, zeros)
        if edges:
            increments["edge_index"] = torch.from_numpy(ptr[:-1])
        batch = copy.copy(_EMPTY_BATCH)
        batch._store._mapping.update(fields | edges)
        batch.__dict__.update(_num_graphs=len(index), _slice_dict=slices, _inc_dict=increments)
        return batch

    def _edges(self, fields: dict[str, Tensor], index: np.ndarray, ptr: np.ndarray) -> tuple[dict[str, Tensor], Tensor]:
        """The edges of a batch, stored or found now, and where those of each molecule begin."""
        if self.graph is None:
            return {}, fields["ptr"]
        if self.edges is None:
            found = self.graph(Data(**fields)) if len(index) else _without_edges(fields)
            counts = torch.bincount(found.batch[found.edge_index[1]], minlength=len(index))
            names = [name for name in ("edge_index", "edge_shift", "edge_cutoff") if name in found]
            return {name: found[name] for name in names}, torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        ranges, edge_ptr = self._gather_edges(index)
        first_atom = ptr[:-1].repeat(ranges[1])
        edges = {"edge_index": torch.from_numpy(np.add(self._edge_index(ranges).T, first_atom, order="C"))}
        if "edge_shift" in self.edges:
            edges["edge_shift"] = torch.from_numpy(self._edge_shift(ranges))
        edges["edge_cutoff"] = torch.from_numpy(np.full(len(index), self.graph.cutoff))
        return edges, torch.from_numpy(edge_ptr)


class Selection(Dataset):
    """Some of the molecules. Whoever asks for several at once gets them as one `Batch`.

    Args:
        molecules: all of them.
        indices: those that belong to the selection.
    """

    def __init__(self, molecules: Molecules, indices: Int[Tensor, "selected"]):
        self.molecules, self.indices = molecules, indices.numpy()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int | list[int]) -> Data:
        if isinstance(index, list):
            return self.__getitems__(index)
        return self.molecules[int(self.indices[index])]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        return self.molecules.batch(self.indices[indices])


def write_edges(molecules: Molecules, graph: RadiusGraph, columns: Columns) -> None:
    """Find the edges of all molecules and append them: edge_index, edge_ptr, edge_shift.

    Sources and targets stand side by side, counted from the first atom of their molecule, in the smallest integers
    that hold them.
    """
    geometry = [name for name in ("cell", "pbc") if name in molecules.per_molecule]
    bare = Molecules(molecules.arrays, ["z", "pos"], geometry, graph)
    first_atoms = molecules.arrays["ptr"]
    small = np.min_scalar_type(-int(np.diff(first_atoms).max(initial=1)))
    total = 0
    columns.append("edge_ptr", np.zeros(1, np.int64))
    bounds = np.searchsorted(first_atoms, np.arange(0, first_atoms[-1], CHUNK))
    bounds = np.unique(np.append(bounds, len(molecules)))
    for first, last in zip(bounds, tqdm(bounds[1:], "finding edges", delay=1, leave=False), strict=False):
        batch = bare.batch(np.arange(first, last))
        ptr = batch._slice_dict["edge_index"].numpy()
        local = batch.edge_index - batch.ptr[batch.batch[batch.edge_index[1]]]
        columns.append("edge_index", local.T.numpy().astype(small))
        columns.append("edge_ptr", total + ptr[1:])
        total += int(ptr[-1])
        if "edge_shift" in batch:
            columns.append("edge_shift", batch.edge_shift.numpy().astype(np.int16))
    columns.metadata["cutoff"] = graph.cutoff


Ranges = tuple[np.ndarray, np.ndarray, np.ndarray]  # where each begins, how long it is, and all rows of all of them


class Gather:
    """Finds the rows ptr[i] … ptr[i+1] − 1 of several i.

    Args:
        ptr: where each range begins, and the number of rows.
    """

    def __init__(self, ptr: Int[np.ndarray, "boundaries"]):
        self.ptr = ptr
        counts = np.diff(ptr[:MANY])
        self.each = int(counts[0]) if 1 < len(ptr) <= MANY and (counts == counts[0]).all() else None

    def __call__(self, index: Int[np.ndarray, "ranges"]) -> tuple[Ranges, Int[np.ndarray, "new_boundaries"]]:
        """The ranges of these indices, and where each begins among their rows."""
        if self.each is not None:  # frames of one molecule
            first = index * self.each
            rows = (first[:, np.newaxis] + _count(self.each)).reshape(-1)
            return (first, np.full(len(index), self.each), rows), _count(len(index) + 1) * self.each
        first = self.ptr.take(index)
        counts = self.ptr[1:].take(index) - first
        new_ptr = np.zeros(len(index) + 1, np.int64)
        np.cumsum(counts, out=new_ptr[1:])
        rows = (first - new_ptr[:-1]).repeat(counts)
        rows += _count(len(rows))
        return (first, counts, rows), new_ptr


def _without_edges(fields: dict[str, Tensor]) -> Data:
    edges = {"edge_index": torch.zeros(2, 0, dtype=torch.long), "edge_cutoff": torch.zeros(0, dtype=torch.float64)}
    if "cell" in fields:
        edges["edge_shift"] = torch.zeros(0, 3, dtype=torch.long)
    return Data(**fields, **edges)


def _constants(molecules: int) -> tuple[Tensor, Tensor, np.ndarray]:
    return torch.arange(molecules + 1), torch.zeros(molecules, dtype=torch.long), np.ones(molecules, np.int64)


def _count(length: int) -> np.ndarray:
    return _NUMBERS[:length] if length <= len(_NUMBERS) else np.arange(length)


def reader(arrays: Mapping[str, np.ndarray], name: str, widen: bool = True) -> Callable[[Ranges], np.ndarray]:
    """A function that gives the rows of ranges of an array.

    Where an array is too large to be mapped bit by bit, only these rows are read.

    Args:
        arrays: of which it is one.
        name: of the array.
        widen: give numbers as float64 or int64, however small they are stored.
    """
    array = arrays[name]
    dtype = {"f": np.dtype(np.float64), "b": array.dtype}.get(array.dtype.kind, np.dtype(np.int64))
    if isinstance(arrays, Store) and arrays.is_large(name):
        if widen:
            return lambda ranges: arrays.read_ranges(name, *ranges[:2]).astype(dtype, copy=False)
        return lambda ranges: arrays.read_ranges(name, *ranges[:2])
    if widen and array.dtype != dtype:
        return lambda ranges: array.take(ranges[2], axis=0).astype(dtype)
    return lambda ranges: array.take(ranges[2], axis=0)
