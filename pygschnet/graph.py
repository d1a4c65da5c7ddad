"""Molecules as graphs: the fields of `Data`, the transform that adds edges, and geometry that autograd sees.

| field         | shape            | meaning                                                                      |
|---------------|------------------|------------------------------------------------------------------------------|
| `z`           | [atoms]          | atomic numbers                                                               |
| `pos`         | [atoms, 3]       | positions, Å                                                                 |
| `cell`        | [molecules, 3, 3]| lattice vectors in rows, Å (periodic systems)                                |
| `pbc`         | [molecules, 3]   | periodic along each lattice vector? (periodic systems)                       |
| `edge_index`  | [2, edges]       | row 0 the source j, row 1 the target i, sorted by target                     |
| `edge_shift`  | [edges, 3]       | lattice vectors added to the source's position (periodic systems)            |
| `edge_cutoff` | [molecules]      | the radius within which the edges are complete, Å                            |
| `energy`      | [molecules]      | eV, float64: total energies do not survive float32                           |
| `forces`      | [atoms, 3]       | eV/Å                                                                         |
| `charge`      | [molecules]      | total charge, e; 0 if it is not there                                        |
| `batch`, `ptr`| [atoms], [molecules + 1] | PyG's: the molecule of each atom, the first atom of each molecule    |

`energy` and `forces` hold labels; predictions are returned apart.
"""

import copy
import math
from typing import Literal

import numpy as np
import torch
from ase import Atoms
from ase.geometry import complete_cell
from jaxtyping import Float, Int
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform
from vesin import NeighborList

from pygschnet.elements import check_atomic_numbers
from pygschnet.errors import InputError

try:
    import torch_cluster
except (ImportError, OSError):  # not installed, or built against another torch; vesin gives the same edges
    torch_cluster = None

COINCIDENT = 1e-6
"""Distance in Å below which two atoms are taken for one."""

MAX_EDGES = 1e9
"""More of them do not fit into any machine's memory."""

Backend = Literal["auto", "torch_cluster", "vesin"]


def from_atoms(atoms: Atoms, labels: bool = True) -> Data:
    """The graph of an ASE `Atoms`, without edges: `RadiusGraph` adds them.

    Energy and forces are taken from the calculator's results where there are any, the total charge from
    `atoms.info["charge"]`. Everything is in float64.

    Args:
        atoms: one atom or more; positions in Å, energies in eV, as always in ASE.
        labels: whether to take energy and forces.

    Raises:
        InputError: for no atoms, a missing cell, non-finite numbers or impossible atomic numbers.
    """
    data = Data(z=torch.from_numpy(atoms.numbers).long(), pos=torch.from_numpy(atoms.get_positions()))
    if atoms.pbc.any():
        data.cell = torch.from_numpy(atoms.cell.array.copy()).unsqueeze(0)
        data.pbc = torch.from_numpy(atoms.pbc.copy()).unsqueeze(0)
    if "charge" in atoms.info:
        try:
            data.charge = torch.tensor([float(atoms.info["charge"])], dtype=torch.float64)
        except (TypeError, ValueError):
            raise InputError(f"info['charge'] should be the total charge in e, not {atoms.info['charge']!r}") from None
    results = atoms.calc.results if labels and atoms.calc is not None else {}
    if "energy" in results:
        data.energy = torch.tensor([results["energy"]], dtype=torch.float64)
    if "forces" in results:
        data.forces = torch.as_tensor(np.array(results["forces"], dtype=np.float64))
    check_atoms(data)
    return data


class RadiusGraph(BaseTransform):
    """Adds the complete set of edges within a radius: nothing is ever dropped, however many neighbours there are.

    Works on a single `Data` or on a batch. Molecules use torch-cluster, or vesin where that is not installed;
    periodic systems use vesin; an infinite radius connects all pairs of a molecule.

    Args:
        cutoff: radius in Å; None for all pairs.
        backend: "auto", "torch_cluster" or "vesin".

    Raises:
        InputError: for coincident atoms, non-finite positions, or a periodic system without a cutoff.
    """

    def __init__(self, cutoff: float | None, backend: Backend = "auto"):
        if cutoff is not None and not cutoff > 0:
            raise InputError(f"the cutoff must be above 0 Å, got {cutoff}; None connects all pairs")
        if backend == "torch_cluster" and torch_cluster is None:
            raise InputError('torch-cluster is not installed; backend="vesin" gives the same edges')
        self.cutoff = math.inf if cutoff is None else cutoff
        self.backend = backend

    def forward(self, data: Data) -> Data:
        check_atoms(data)
        pos = data.pos.detach()
        batch, molecules = molecule_index(data)
        if "cell" in data:
            edge_index, data.edge_shift = self._periodic(pos, data)
        elif self.cutoff == math.inf:
            edge_index = _all_pairs(torch.bincount(batch))
        elif self.backend == "vesin" or torch_cluster is None:
            edge_index = _vesin_molecules(pos, batch, self.cutoff)
        else:
            edge_index = _torch_cluster(pos, batch, self.cutoff)
        data.edge_index = edge_index
        data.edge_cutoff = torch.full((molecules,), self.cutoff, dtype=torch.float64, device=pos.device)
        _check_coincident(data)
        return data

    def _periodic(self, pos: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        if self.cutoff == math.inf:
            raise InputError("a periodic system has infinitely many pairs: give a cutoff in Å")
        _check_sense(data, self.cutoff)
        pieces, first = [], 0
        for count, cell, pbc in zip(torch.bincount(molecule_index(data)[0]).tolist(), data.cell, data.pbc, strict=True):
            piece = pos[first : first + count]
            i, j, shift = _vesin(piece, self.cutoff, cell.detach().cpu().double().numpy(), pbc.cpu().numpy())
            pieces.append((i + first, j + first, shift))
            first += count
        i, j, shift = (torch.cat(arrays).to(pos.device) for arrays in zip(*pieces, strict=True))
        return torch.stack([j, i]), shift

    def __repr__(self) -> str:
        return f"RadiusGraph(cutoff={self.cutoff}, backend={self.backend!r})"


def edge_vectors(data: Data) -> Float[Tensor, "edges dimensions"]:
    """r_j + S·cell − r_i for every edge j → i, in Å; differentiable in `pos` and `cell`."""
    source, target = data.edge_index
    vectors = data.pos.index_select(0, source) - data.pos.index_select(0, target)
    return vectors + edge_offsets(data)[1].to(vectors) if "edge_shift" in data else vectors


def edge_offsets(data: Data) -> tuple[Int[Tensor, "shifted 3"], Float[Tensor, "shifted 3"]]:
    """S and S·cell, in Å, of every edge; empty without cells."""
    if "edge_shift" not in data:
        return data.edge_index.new_empty(0, 3), data.pos.new_empty(0, 3)
    cells = data.cell.index_select(0, molecule_index(data)[0][data.edge_index[1]])
    return data.edge_shift, (data.edge_shift.to(cells).unsqueeze(1) @ cells).squeeze(1)


def edge_distances(data: Data) -> Float[Tensor, "edges"]:
    """d_ij = ‖r_j − r_i‖ for every edge, in Å; differentiable in `pos` and `cell`."""
    return torch.linalg.vector_norm(edge_vectors(data), dim=-1)


def unique_pairs(data: Data) -> tuple[Int[Tensor, "2 pairs"], Float[Tensor, "pairs"], bool]:
    """Every pair of neighbours once, with its distance: d_ij = d_ji, so a filter need not be evaluated twice.

    Returns:
        The pairs, their distances in Å, and whether each stands for both directions. Edges that do not come from
        `RadiusGraph` may lack their reverse; they are returned as they are, for one direction.
    """
    if "edge_cutoff" not in data:
        return data.edge_index, edge_distances(data), False
    half = one_of_each_pair(data)
    return half.edge_index, edge_distances(half), True


def one_of_each_pair(data: Data) -> Data:
    """The same graph, which `RadiusGraph` has made, with the edge j → i of every pair j < i alone."""
    source, target = data.edge_index
    forward = source < target
    half = copy.copy(data)
    if "edge_shift" in data:  # an atom and its own images: of the shifts S and −S the lexicographically larger
        order = (data.edge_shift.sign() * data.edge_shift.new_tensor([4, 2, 1])).sum(-1)
        forward = forward | ((source == target) & (order > 0))
        half.edge_shift = data.edge_shift[forward]
    half.edge_index = data.edge_index[:, forward]
    return half


def molecule_index(data: Data) -> tuple[Int[Tensor, "atoms"], int]:
    """The molecule of each atom, and how many molecules there are; of a single `Data` as of a batch."""
    if "batch" not in data:
        return torch.zeros_like(data.z), 1
    return data.batch, len(data.ptr) - 1 if "ptr" in data else int(data.batch.max()) + 1


def check_atoms(data: Data) -> None:
    """Refuse what no model could use.

    Raises:
        InputError: for no atoms, atomic numbers outside 1…99, shapes that disagree, or non-finite numbers.
    """
    if data.z.numel() == 0:
        raise InputError("a molecule without atoms: leave it out")
    if data.pos.dim() != 2 or len(data.pos) != len(data.z):
        raise InputError(f"{len(data.z)} atomic numbers, but positions of shape {list(data.pos.shape)}")
    check_atomic_numbers(data.z)
    for field, unit in (("pos", "Å"), ("cell", "Å"), ("energy", "eV"), ("forces", "eV/Å"), ("charge", "e")):
        if field in data and not torch.isfinite(data[field]).all():
            bad = data[field][~torch.isfinite(data[field])]
            raise InputError(f"{field} (in {unit}) holds {len(bad)} values that are not finite, the first {bad[0]}")
    if "cell" in data and (flat := _flat(data.cell, data.pbc)).any():
        raise InputError(
            f"periodic along {data.pbc[flat][0].tolist()}, but the cell, in Å, is {data.cell[flat][0].tolist()}: "
            "give lattice vectors that span it, or switch the periodicity off"
        )
    if "forces" in data and data.forces.shape != data.pos.shape:
        raise InputError(f"forces of shape {list(data.forces.shape)} for positions of shape {list(data.pos.shape)}")


def _flat(cell: Tensor, pbc: Tensor) -> Tensor:
    """Which cells have periodic lattice vectors that are zero, or lie in one plane or on one line."""
    vectors = torch.where(pbc.unsqueeze(-1), cell.detach(), 0.0).double()
    return torch.linalg.matrix_rank(vectors, atol=1e-3) < pbc.sum(-1)


def _check_sense(data: Data, cutoff: float) -> None:
    """Refuse to search for more edges than any memory holds."""
    volumes = torch.linalg.det(data.cell.detach().double()).abs()[data.pbc.all(-1)]
    counts = torch.bincount(molecule_index(data)[0], minlength=len(data.cell))[data.pbc.all(-1)].to(volumes)
    edges = float((counts.square() * (4 / 3 * math.pi * cutoff**3) / volumes).sum())
    if edges > MAX_EDGES:
        raise InputError(f"a cutoff of {cutoff} Å means about {edges:.0e} edges here: it should be of a few Å")


def _check_coincident(data: Data) -> None:
    short = edge_distances(data).detach() < COINCIDENT
    if short.any():
        j, i = data.edge_index[:, short][:, 0].tolist()
        raise InputError(f"atoms {i} and {j} stand on the same spot, {data.pos[i].tolist()} Å: remove one of them")


def _all_pairs(sizes: Tensor) -> Tensor:
    """Both directions of every pair of different atoms in the same molecule, sorted by target, then source."""
    neighbours = sizes.repeat_interleave(sizes)  # of each atom, itself included
    atoms = torch.arange(len(neighbours), device=sizes.device)
    target = atoms.repeat_interleave(neighbours)
    first_edge = (neighbours.cumsum(0) - neighbours).repeat_interleave(neighbours)
    first_atom = (sizes.cumsum(0) - sizes).repeat_interleave(sizes).repeat_interleave(neighbours)
    source = torch.arange(len(target), device=sizes.device) - first_edge + first_atom
    return torch.stack([source, target])[:, source != target]


def _torch_cluster(pos: Tensor, batch: Tensor, cutoff: float) -> Tensor:
    largest = int(torch.bincount(batch).max()) - 1
    cap = min(largest, 128)
    search = cutoff * (1 + 1e-6)  # rounding decides nothing: `_within` does, in the same way for all backends
    while True:
        edges = torch_cluster.radius_graph(pos, search, batch, max_num_neighbors=max(cap, 1))
        if cap >= largest or int(torch.bincount(edges[1], minlength=1).max()) < cap:
            break
        cap = min(largest, 4 * cap)  # some atom may have lost neighbours: again, with more room
    source, target = edges[:, _within(pos, edges, cutoff)]
    return torch.stack([source, target])[:, torch.argsort(target * len(pos) + source)]


def _vesin_molecules(pos: Tensor, batch: Tensor, cutoff: float) -> Tensor:
    pieces, first = [], 0
    for count in torch.bincount(batch).tolist():
        i, j, _ = _vesin(pos[first : first + count], cutoff, np.zeros((3, 3)), np.zeros(3, dtype=bool))
        pieces.append(torch.stack([j, i]) + first)
        first += count
    return torch.cat(pieces, dim=1).to(pos.device)


def _vesin(pos: Tensor, cutoff: float, cell: np.ndarray, pbc: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    if pbc.any():
        cell = complete_cell(cell)  # of a slab or a chain, along directions that are not periodic
    points = np.zeros((len(pos), 3))
    points[:, : pos.shape[1]] = pos.cpu().double().numpy()
    search = NeighborList(cutoff=cutoff * (1 + 1e-6), full_list=True)
    i, j, shift, distance = search.compute(points, cell, pbc, "ijSd")
    keep = distance < cutoff
    i, j, shift = i[keep].astype(np.int64), j[keep].astype(np.int64), shift[keep].astype(np.int64)
    order = np.lexsort((*shift.T, j, i))
    return torch.from_numpy(i[order]), torch.from_numpy(j[order]), torch.from_numpy(shift[order])


def _within(pos: Tensor, edges: Tensor, cutoff: float) -> Tensor:
    vectors = pos[edges[0]].double() - pos[edges[1]].double()
    return torch.linalg.vector_norm(vectors, dim=-1) < cutoff
