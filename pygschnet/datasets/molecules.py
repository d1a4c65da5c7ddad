"""Molecules in flat arrays: a batch is a few gathers instead of thirty-two Python objects."""

import copy
from collections.abc import Mapping, Sequence

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
PAGES = 1 << 16  # bytes that the system maps around an address that is touched
RELEASE = 1 << 25  # bytes that may be mapped by random reads before they are let go; some systems map more at once

_EMPTY_BATCH = Batch()  # a copy is twenty times faster than another one


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
        self._stores = [store for store in (arrays, edges) if isinstance(store, Store) and store.size > RELEASE]
        self._touched = 0
        self._counting = torch.arange(1), torch.zeros(0, dtype=torch.long)  # of the last batch, for the next

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
        index = np.asarray(indices)
        rows, ptr = gather(self.arrays["ptr"], index)
        atoms = {name: _tensor(self.arrays[name].take(rows, axis=0)) for name in self.per_atom}
        molecules = {name: _tensor(self.arrays[name].take(index, axis=0)) for name in self.per_molecule}
        fields = atoms | molecules
        fields["batch"] = torch.from_numpy(np.arange(len(index)).repeat(ptr[1:] - ptr[:-1]))
        fields["ptr"] = torch.from_numpy(ptr)
        edges, edge_ptr = self._edges(fields, index, ptr)
        batch = copy.copy(_EMPTY_BATCH)
        batch._store._mapping.update(fields | edges)
        self._release(len(index))
        # what PyG needs to take the batch apart again
        if len(self._counting[1]) != len(index):
            self._counting = torch.arange(len(index) + 1), torch.zeros(len(index), dtype=torch.long)
        per_molecule, zeros = self._counting
        slices = dict.fromkeys(atoms, fields["ptr"]) | dict.fromkeys(molecules, per_molecule)
        slices |= {name: per_molecule if name == "edge_cutoff" else edge_ptr for name in edges}
        batch._num_graphs, batch._slice_dict = len(index), slices
        batch._inc_dict = dict.fromkeys(slices, zeros)
        if edges:
            batch._inc_dict["edge_index"] = fields["ptr"][:-1]
        return batch

    def _edges(self, fields: dict[str, Tensor], index: np.ndarray, ptr: np.ndarray) -> tuple[dict[str, Tensor], Tensor]:
        """The edges of a batch, stored or found now, and where those of each molecule begin."""
        if self.graph is None:
            return {}, fields["ptr"]
        if self.edges is None:
            found = self.graph(Data(**fields))
            counts = torch.bincount(found.batch[found.edge_index[1]], minlength=len(index))
            names = [name for name in ("edge_index", "edge_shift", "edge_cutoff") if name in found]
            return {name: found[name] for name in names}, torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        rows, edge_ptr = gather(self.edges["edge_ptr"], index)
        first_atom = ptr[:-1].repeat(edge_ptr[1:] - edge_ptr[:-1])
        edge_index = np.empty((2, len(rows)), np.int64)
        for row, name in enumerate(("edge_source", "edge_target")):
            np.add(self.edges[name].take(rows), first_atom, out=edge_index[row])
        edges = {"edge_index": torch.from_numpy(edge_index)}
        if "edge_shift" in self.edges:
            edges["edge_shift"] = _tensor(self.edges["edge_shift"].take(rows, axis=0))
        edges["edge_cutoff"] = torch.full((len(index),), self.graph.cutoff, dtype=torch.float64)
        return edges, torch.from_numpy(edge_ptr)

    def _release(self, molecules: int) -> None:
        """Keep the process small: random reads would map the whole file in the end."""
        self._touched += molecules * PAGES * (len(self.per_atom) + len(self.per_molecule) + 3)
        if self._touched > RELEASE:
            self._touched = 0
            for store in self._stores:
                store.release()


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
    """Find the edges of all molecules and append them: edge_source, edge_target, edge_ptr, edge_shift.

    Sources and targets are counted from the first atom of their molecule, in the smallest integers that hold them.
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
        columns.append("edge_source", local[0].numpy().astype(small))
        columns.append("edge_target", local[1].numpy().astype(small))
        columns.append("edge_ptr", total + ptr[1:])
        total += int(ptr[-1])
        if "edge_shift" in batch:
            columns.append("edge_shift", batch.edge_shift.numpy().astype(np.int16))
    columns.metadata["cutoff"] = graph.cutoff


def gather(
    ptr: Int[np.ndarray, "boundaries"], index: Int[np.ndarray, "ranges"]
) -> tuple[Int[np.ndarray, "rows"], Int[np.ndarray, "new_boundaries"]]:
    """The rows ptr[i] … ptr[i+1] − 1 for every i of `index`, and where each range begins among them."""
    first = ptr.take(index)
    counts = ptr.take(index + 1) - first
    new_ptr = np.zeros(len(index) + 1, np.int64)
    np.cumsum(counts, out=new_ptr[1:])
    return (first - new_ptr[:-1]).repeat(counts) + np.arange(new_ptr[-1]), new_ptr


def _tensor(array: np.ndarray) -> Tensor:
    if array.dtype.kind == "b":
        return torch.from_numpy(array)
    return torch.from_numpy(array.astype(np.float64 if array.dtype.kind == "f" else np.int64, copy=False))
