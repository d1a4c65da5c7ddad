"""SchNet, its output network and their derivatives in plain operators of PyTorch, which `torch.export` can follow."""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pygschnet.heads import Atomwise
from pygschnet.kernels.spline import POLYNOMIALS, TAPS
from pygschnet.model import AtomisticModel
from pygschnet.nn.cutoff import FORMS, SLOPES
from pygschnet.nn.table import Knots, tabulate
from pygschnet.representations import SchNet

Outputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""Energy, atomic energies, forces, virial."""

FORWARD, BACKWARD = range(TAPS), range(TAPS - 1, -1, -1)
"""Orders of the terms of a spline: were they the same, the compiler would keep W of all edges between the passes."""


class Program(nn.Module):
    """Energy, forces and virial of one system, filters from a table, derivatives written out.

    With h = W_in x, y = W_f c + b_f and g = ∂E/∂x behind an interaction block, b = W_fᵀ (ssp′(y) ∘ W_dᵀ g) is ∂E/∂c.
    An edge j → i then has ∂E/∂d = Σ_f b_if h_jf W′_f, summed over the blocks, and before the block ∂E/∂x_j is
    g_j + W_inᵀ Σ_i b_i ∘ W_ij. Distances, σ, μ, reference energies and sums over atoms are in float64.

    Edges at and beyond the cutoff radius add exactly nothing, so neighbour lists may have a skin. Elements that the
    model was not trained on give energies and forces that are not numbers.

    Args:
        model: SchNet with an `Atomwise` head that sums.
        knots: of the table.
        dtype: of features, weights and table.

    Source: arXiv:1706.08566, section 4; the derivatives as in `kernels/molecule.c`.
    """

    embedding: Tensor
    tables: Tensor
    in2f: Tensor
    f2out: Tensor
    f2out_bias: Tensor
    dense: Tensor
    dense_bias: Tensor
    hidden: Tensor
    hidden_bias: Tensor
    output: Tensor
    output_bias: Tensor
    polynomials: Tensor
    sigma: Tensor
    references: Tensor

    def __init__(self, model: AtomisticModel, knots: Knots, dtype: torch.dtype):
        super().__init__()
        representation, head = model.representation, model.head
        assert isinstance(representation, SchNet) and isinstance(head, Atomwise)
        self.knots, self.cutoff, self.form = knots, representation.cutoff, representation.cutoff_form
        self.activation = head.activation
        blocks: Sequence = list(representation.blocks)
        networks: Sequence = list(representation.filter_networks)
        embedding = representation.embedding.weight.detach().clone()
        if head.fitted:
            embedding[~head.elements] = math.nan
        weights = {
            "embedding": embedding,
            "tables": tabulate(networks, representation.basis, knots, torch.float64),
            "in2f": torch.stack([block.in2f.weight for block in blocks]),
            "f2out": torch.stack([block.f2out.weight for block in blocks]),
            "f2out_bias": torch.stack([block.f2out.bias for block in blocks]),
            "dense": torch.stack([block.dense.weight for block in blocks]),
            "dense_bias": torch.stack([block.dense.bias for block in blocks]),
            "hidden": head.dense_1.weight,
            "hidden_bias": head.dense_1.bias,
            "output": head.dense_2.weight.squeeze(0),
            "output_bias": head.dense_2.bias,
        }
        for name, weight in weights.items():
            self.register_buffer(name, weight.detach().to(dtype).contiguous())
        self.register_buffer("polynomials", torch.from_numpy(_polynomials(knots.spacing)))
        self.register_buffer("sigma", head.sigma.detach().clone())
        self.register_buffer("references", (head.mu + head.reference_energies).detach())

    def forward(self, z: Tensor, pos: Tensor, edge_index: Tensor, offsets: Tensor) -> Outputs:
        """Predict; shapes are not in the signature because checking them would fix them in the graph.

        Args:
            z: atomic numbers, [atoms], int64.
            pos: positions in Å, [atoms, 3], float64.
            edge_index: row 0 the source j, row 1 the target i, [2, edges], int64; both directions of every pair.
            offsets: S·cell in Å, added to the source's position, [edges, 3], float64.

        Returns:
            Energy in eV, []; atomic energies in eV, [atoms]; forces in eV/Å, [atoms, 3]; virial −∂E/∂ε in eV, [3, 3],
            which is −V·stress. All in float64.
        """
        j, i = edge_index[0], edge_index[1]
        vectors = pos[j] + offsets - pos[i]
        distances = torch.linalg.vector_norm(vectors, dim=-1)
        weights, rises, interval = self.splines(distances)
        kept, x = [], self.embedding[z]
        for t in range(len(self.in2f)):
            h = x @ self.in2f[t].T
            c = _sum((h[j] * _spline(weights, self.tables[t], interval, FORWARD)), i, z)
            y = c @ self.f2out[t].T + self.f2out_bias[t]
            x = x + _ssp(y) @ self.dense[t].T + self.dense_bias[t]
            kept.append((h, y))
        value, slope = ACTIVATIONS[self.activation]
        y = x @ self.hidden.T + self.hidden_bias
        output = (value(y) * self.output).sum(-1) + self.output_bias
        atomic = self.sigma * output.double() + self.references[z]

        g, change = (slope(y) * self.output) @ self.hidden, torch.zeros_like(distances)
        for t, (h, y) in reversed(list(enumerate(kept))):
            b = ((g @ self.dense[t]) * torch.sigmoid(y)) @ self.f2out[t]
            change = change + (b[i] * h[j] * _spline(rises, self.tables[t], interval, FORWARD)).sum(-1)
            g = g + _sum(b[i] * _spline(weights, self.tables[t], interval, BACKWARD), j, z) @ self.in2f[t]
        pull = self.sigma * change / torch.where(distances > 0, distances, 1.0)
        gradients = vectors * pull.unsqueeze(-1)
        forces = _sum(gradients, i, z) - _sum(gradients, j, z)
        return atomic.sum(), atomic, forces, -(vectors.T @ gradients)

    def splines(self, distances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The six weights of every edge, the cutoff function included, their derivatives, and the interval.

        All come out of one matrix product, the interval too: compilers would compute the rest anew for every filter.
        """
        t = distances / self.knots.spacing
        n = t.floor()
        u = (t - n).unsqueeze(-1)
        f, slope = FORMS[self.form](distances, self.cutoff), SLOPES[self.form](distances, self.cutoff)
        if self.form == "none" and self.cutoff is not None:
            f = f * (distances < self.cutoff)
        powers = torch.cat([torch.ones_like(u), u, u**2, u**3, u**4, u**5], dim=-1)
        rows = torch.cat([powers * f.unsqueeze(-1), powers * slope.unsqueeze(-1), n.unsqueeze(-1)], dim=-1)
        rows = rows @ self.polynomials
        interval = (rows[:, -1].long() - self.knots.first).clamp(0, self.tables.shape[1] - TAPS)
        dtype = self.tables.dtype
        return rows[:, :TAPS].to(dtype), rows[:, TAPS:-1].to(dtype), interval


def _polynomials(spacing: float) -> np.ndarray:
    """Turns [f uᵏ, f′ uᵏ, n] into [f w_m, (f w_m)′, n], with the spacing of the knots in Å."""
    values = POLYNOMIALS / 120.0
    slopes = np.vstack([np.arange(1, TAPS)[:, None] * values[1:], np.zeros((1, TAPS))]) / spacing
    zero, one = np.zeros((TAPS, 1)), np.ones((1, 1))
    return np.block([[values, slopes, zero], [0 * values, values, zero], [zero.T, zero.T, one]])


def _spline(weights: Tensor, table: Tensor, interval: Tensor, taps: range) -> Tensor:
    terms = [weights[:, m, None] * table[interval + m] for m in taps]
    return functools.reduce(torch.add, terms)


def _sum(messages: Tensor, index: Tensor, atoms: Tensor) -> Tensor:
    return messages.new_zeros(atoms.shape[0], messages.shape[1]).index_add(0, index, messages)


def _ssp(x: Tensor) -> Tensor:
    return F.softplus(x, threshold=40.0) - math.log(2.0)


def _silu_slope(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1.0 + x * (1.0 - s))


ACTIVATIONS = {"ssp": (_ssp, torch.sigmoid), "silu": (F.silu, _silu_slope)}
"""Activation functions and their derivatives."""
