"""Walks through a SchNet: which chains of atoms its energy is made of (GNN-LRP).

Every interaction block hands features from atom to atom, or leaves them where they are. For one molecule all filters
are constants, and so is every ssp(y)/y once it has been evaluated: then the network is linear in its embeddings,

    x_i^t = x_i^(t−1) + Σ_j M^t_ij x_j^(t−1) + const,    M^t_ij = W_d diag(ssp(y_i)/y_i) W_f diag(W^t(d_ij)) W_in,

and its energy falls into one share for every walk j_0 → j_1 → … → j_T, the embedding of j_0 times the matrices on the
way. The shares are found from the last atom backwards, for all walks at once that end alike.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch_geometric.data import Data

from pygschnet.errors import InputError
from pygschnet.graph import edge_distances, molecule_index
from pygschnet.interpret.molecule import graph_of
from pygschnet.model import AtomisticModel
from pygschnet.representations import SchNet


class Walks(NamedTuple):
    """The energy of a molecule as shares of walks, in eV: energy = Σ relevance + bias.

    A share says how much of this energy the network computes along a walk, given how far its neurons are on. It does
    not say how the energy would change without these atoms, is no bond energy, and, as the partition into atomic
    energies, is not unique: another network of the same accuracy may share differently. With ssp the shares depend on
    where activations are measured from; here it is y = 0, where ssp(y) = 0.

    Attributes:
        walks: the atoms j_0, …, j_T of each, [walks, T + 1]; a repeated atom is a step that stays.
        relevance: the share of each, [walks].
        bias: what the network gives with embeddings of zero and the same ssp(y)/y: the share of its biases, which no
            walk can claim. Biases of filter networks are inside the filters.
        energy: σ Σ_i o_i, the energy without the constants μ and e0 of each atom.
    """

    walks: Int[np.ndarray, "walks steps"]
    relevance: Float[np.ndarray, "walks"]
    bias: float
    energy: float

    def of_atoms(self) -> Float[np.ndarray, "atoms"]:
        """Σ over the walks that start at each atom, in eV: what its embedding contributes, wherever it is carried."""
        return np.bincount(self.walks[:, 0], self.relevance)

    def of_pairs(self) -> Float[np.ndarray, "atoms atoms"]:
        """Σ over the walks that visit exactly atoms i and j, in eV; on the diagonal those that never leave i.

        Symmetric: each pair stands in it twice. It is the strength of a pair within this network, not of a bond.
        """
        low, high = self.walks.min(1), self.walks.max(1)
        two = ((self.walks == low[:, None]) | (self.walks == high[:, None])).all(1)
        pairs = np.zeros((high.max() + 1,) * 2)
        np.add.at(pairs, (low[two], high[two]), self.relevance[two])
        return pairs + np.triu(pairs, 1).T

    def of_orders(self) -> Float[np.ndarray, "orders"]:
        """Σ over the walks that visit one atom, two different ones, …, in eV: the many-body orders of the network.

        By walks, not by physics: walks between two atoms also depend on all others through ssp(y)/y.
        """
        ordered = np.sort(self.walks, axis=1)
        different = (np.diff(ordered, axis=1) > 0).sum(1)
        return np.bincount(different, self.relevance, minlength=self.walks.shape[1])

    def within(self, atoms: Sequence[int]) -> float:
        """Σ over the walks that never leave a group of atoms, in eV: the relevance of the group, by index."""
        return float(self.relevance[np.isin(self.walks, np.asarray(atoms)).all(1)].sum())


class Block(NamedTuple):
    """An interaction block whose activations are constant factors.

    Attributes:
        into: W_in, without biases.
        filters: W(d) of every edge, [edges, filters].
        out: W_f and b_f.
        gate: ssp(y)/y, [atoms, features].
        dense: W_d and b_d.
    """

    into: nn.Linear
    filters: Tensor
    out: nn.Linear
    gate: Tensor
    dense: nn.Linear

    def forward(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """The update v that the features h give."""
        messages = self.into(h)[source] * self.filters
        c = h.new_zeros(len(h), messages.shape[1]).index_add(0, target, messages)
        return self.dense(self.gate * self.out(c))


def walk_relevance(model: AtomisticModel, molecule: Data | Atoms, max_walks: int = 2_000_000) -> Walks:
    """The shares of all walks in the energy of a molecule.

    Steps lead along edges, j → i within the cutoff, or stay. Computed in float64. The γ rule of the paper, which
    strengthens positive parts of weights, is left out: here inputs have both signs, so that its denominators may
    vanish, and which layers it applies to would have to be chosen.

    Args:
        model: a SchNet with an `Atomwise` head with ssp.
        molecule: one, not periodic.
        max_walks: how many walks may be computed: n atoms that all see each other have n^(T+1).

    Raises:
        InputError: for other models, more than one molecule, periodic systems, and too many walks.

    Source: arXiv:2006.03589, with γ = 0.
    """
    if type(model.representation) is not SchNet or model.head.network() is None:
        raise InputError(
            f"walks are made for SchNet with an Atomwise head with ssp and energies that add up; this model has a "
            f"{type(model.representation).__name__} and {type(model.head).__name__}, with another activation or "
            "aggregation, or with layers that were replaced or are observed by hooks"
        )
    data = graph_of(model, molecule)
    if (molecules := molecule_index(data)[1]) != 1:
        raise InputError(f"walks are of one molecule, and there are {molecules}: give them one by one")
    if "cell" in data:
        raise InputError("walks are of a molecule, and this is a periodic system: cut a cluster out of it")
    data.edge_index = data.edge_index[:, data.edge_index[1].argsort(stable=True)]
    source, target = data.edge_index
    number = _number_of_walks(source, target, len(data.z), len(model.representation.blocks))
    if number > max_walks:
        raise InputError(
            f"{number:.0f} walks of {len(model.representation.blocks)} steps among {len(data.z)} atoms are more than "
            f"max_walks = {max_walks}: take a smaller molecule or a model with fewer blocks or a shorter cutoff, or "
            "raise max_walks, at some 100 bytes for each walk"
        )
    schnet, head = copy.deepcopy(model.representation).double().eval(), copy.deepcopy(model.head).double()
    with torch.no_grad():
        x0, blocks, x = _frozen(schnet, data)
        first, last, sigma = head.dense_1, head.dense_2, float(head.sigma)
        gate = _gate(first(x))
        nothing = torch.zeros_like(x)
        for block in blocks:
            nothing = nothing + block.forward(nothing, source, target)
        outputs = [sigma * float(last(gate * first(features)).sum()) for features in (x, nothing)]
        ends = sigma * (last.weight * gate) @ first.weight  # ∂E/∂x_i^T
        found = [_back(i, ends[i], blocks, x0, source, target) for i in range(len(x0))]
    walks, relevance = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
    return Walks(walks, relevance, outputs[1], outputs[0])


def _number_of_walks(source: Tensor, target: Tensor, atoms: int, steps: int) -> float:
    count = torch.ones(atoms, dtype=torch.float64, device=source.device)  # that end at each atom
    for _ in range(steps):
        count = count.index_add(0, target, count[source])
    return float(count.sum())


def _frozen(schnet: SchNet, data: Data) -> tuple[Tensor, list[Block], Tensor]:
    """Embeddings, blocks, and the features that they make of them."""
    source, target = data.edge_index
    x = x0 = schnet.embedding(data.z)
    blocks: list[Block] = []
    layers: list[Any] = list(schnet.blocks)
    for block, filters in zip(layers, schnet.filters_at(edge_distances(data).double()), strict=True):
        gate = _gate(block.f2out(block.cfconv(block.in2f(x), data.edge_index, filters)))
        blocks.append(Block(block.in2f, filters, block.f2out, gate, block.dense))
        x = x + blocks[-1].forward(x, source, target)
    return x0, blocks, x


def _gate(y: Tensor) -> Tensor:
    """ssp(y)/y, ½ at 0, to full precision also near it."""
    ssp = y.clamp(min=0) + (torch.expm1(-y.abs()) / 2).log1p()
    return torch.where(y == 0, 0.5, ssp / torch.where(y == 0, 1.0, y))


def _back(
    end: int, gradient: Tensor, blocks: list[Block], x0: Tensor, source: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """All walks that end at an atom, and their shares."""
    degree = torch.bincount(target, minlength=len(x0))
    first_edge = degree.cumsum(0) - degree
    walks, q = target.new_tensor([[end]]), gradient[None]  # q = ∂E/∂x of the walk's first atom, through this walk
    for block in reversed(blocks):
        now = walks[:, 0]
        back = ((q @ block.dense.weight) * block.gate[now]) @ block.out.weight  # to the target's convolution
        row = torch.arange(len(now), device=now.device).repeat_interleave(degree[now])
        start = (degree[now].cumsum(0) - degree[now])[row]
        edge = first_edge[now][row] + torch.arange(len(row), device=now.device) - start
        longer = torch.cat([torch.cat([now, source[edge]])[:, None], torch.cat([walks, walks[row]])], dim=1)
        back = back[row] * block.filters[edge]
        if block is blocks[0]:  # the many last steps need but a scalar product
            last = (back * block.into(x0)[source[edge]]).sum(1)
            return longer, torch.cat([(q * x0[now]).sum(1), last])
        walks, q = longer, torch.cat([q, back @ block.into.weight])
    return walks, (q * x0[end]).sum(1)
