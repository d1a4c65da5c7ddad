"""Molecules in flat arrays: a batch is a few gathers instead of thirty-two Python objects."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Batch, Data
from tqdm import tqdm

from pygschnet.graph import RadiusGraph

CHUNK = 1024  # molecules whose edges are found at once


class Molecules(Dataset):
    """Molecules, their labels and their edges, in memory. An item is a `Data`; `batch` gives many at once.

    Args:
        z: atomic numbers of all molecules, one after the other.
        pos: positions, Å.
        ptr: the first atom of each molecule, and the number of atoms.
        molecule_labels: fields with a row per molecule, such as the energy.
        atom_labels: fields with a row per atom, such as forces.
        graph: how to find the edges.
    """

    def __init__(
        self,
        z: Int[Tensor, "atoms"],
        pos: Float[Tensor, "atoms 3"],
        ptr: Int[Tensor, "boundaries"],
        molecule_labels: Mapping[str, Tensor],
        atom_labels: Mapping[str, Tensor],
        graph: RadiusGraph,
    ):
        self.ptr = ptr
        self.atoms = {"z": z, "pos": pos, **atom_labels}
        self.molecules = dict(molecule_labels)
        self.edge_index, self.edge_ptr = self._find_edges(graph)
        self.molecules["edge_cutoff"] = torch.full((len(self),), graph.cutoff, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.ptr) - 1

    def __getitem__(self, index: int) -> Data:
        return self.batch([index])[0]

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """The molecules of these indices as one PyG batch."""
        index = torch.as_tensor(indices)
        rows, ptr = gather(self.ptr, index)
        edges, edge_ptr = gather(self.edge_ptr, index)
        molecules = torch.arange(len(index))
        first_atom = ptr[:-1].repeat_interleave(edge_ptr.diff())
        fields = {name: field[rows] for name, field in self.atoms.items()}
        fields |= {name: field[index] for name, field in self.molecules.items()}
        fields["edge_index"] = self.edge_index[:, edges] + first_atom
        batch = Batch(**fields, batch=molecules.repeat_interleave(ptr.diff()), ptr=ptr)
        # what PyG needs to take the batch apart again
        per_molecule = torch.arange(len(index) + 1)
        batch._num_graphs = len(index)
        batch._slice_dict = {name: ptr for name in self.atoms} | {name: per_molecule for name in self.molecules}
        batch._slice_dict["edge_index"] = edge_ptr
        batch._inc_dict = {name: torch.zeros(len(index), dtype=torch.long) for name in fields}
        batch._inc_dict["edge_index"] = ptr[:-1]
        return batch

    def _find_edges(self, graph: RadiusGraph) -> tuple[Tensor, Tensor]:
        edges, counts = [], []
        for first in tqdm(range(0, len(self), CHUNK), "finding edges", delay=1, leave=False):
            index = torch.arange(first, min(first + CHUNK, len(self)))
            rows, ptr = gather(self.ptr, index)
            batch = torch.arange(len(index)).repeat_interleave(ptr.diff())
            chunk = graph(Data(z=self.atoms["z"][rows], pos=self.atoms["pos"][rows], batch=batch, ptr=ptr))
            molecule = batch[chunk.edge_index[1]]
            edges.append(chunk.edge_index - ptr[molecule])
            counts.append(torch.bincount(molecule, minlength=len(index)))
        edge_ptr = torch.cat([torch.zeros(1, dtype=torch.long), torch.cat(counts).cumsum(0)])
        return torch.cat(edges, dim=1), edge_ptr


class Selection(Dataset):
    """Some of the molecules. A `DataLoader` that asks for several at once gets them as one `Batch`.

    Args:
        molecules: all of them.
        indices: those that belong to the selection.
    """

    def __init__(self, molecules: Molecules, indices: Int[Tensor, "selected"]):
        self.molecules, self.indices = molecules, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Data:
        return self.molecules[int(self.indices[index])]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        return self.molecules.batch(self.indices[indices])


def gather(
    ptr: Int[Tensor, "boundaries"], index: Int[Tensor, "ranges"]
) -> tuple[Int[Tensor, "rows"], Int[Tensor, "new_boundaries"]]:
    """The rows ptr[i] … ptr[i+1] − 1 for every i of `index`, and where each range begins among them."""
    counts = ptr[index + 1] - ptr[index]
    new_ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    shift = (ptr[index] - new_ptr[:-1]).repeat_interleave(counts)
    return torch.arange(len(shift)) + shift, new_ptr
