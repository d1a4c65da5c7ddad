"""SchNet's outputs and their slopes, for training, and the derivatives of both by the weights, without autograd.

Training on forces asks for the gradient of a loss in the outputs o_i and in G = ∂(Σ_i o_i)/∂r by the weights θ. With
the gradients ō and Ḡ that arrive from the loss,

    ō·do/dθ + Ḡ·dG/dθ = d/dθ ( ō·o + Σ_i ȯ_i ),    where ȯ is the derivative of o along the displacement Ḡ.

So one pass that carries along the derivatives ẋ, ḣ, … of everything in the direction Ḡ, and one pass back, give all.
The way back through ȯ is known already: the adjoints of ẋ are the g = ∂(Σ_i o_i)/∂x of the pass that gave G.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from pygschnet.kernels import cpu
from pygschnet.kernels.convolution import Pairs


class Geometry(NamedTuple):
    """Pairs of atoms and what their filters are made of.

    Attributes:
        pairs: for the kernels.
        weights: spline weights of each pair, the cutoff function included.
        slopes: their derivatives by the distance, in 1/Å.
        atoms: the pairs; row 0 one atom, row 1 the other.
        directions: from the atom of row 1 to that of row 0, unit vectors.
    """

    pairs: Pairs
    weights: Float[Tensor, "pairs taps"]
    slopes: Float[Tensor, "pairs taps"]
    atoms: Int[Tensor, "2 pairs"]
    directions: Float[Tensor, "pairs 3"]


class Block(NamedTuple):
    """The weights of an interaction block."""

    inner: Float[Tensor, "filters features"]
    outer: Float[Tensor, "features filters"]
    outer_bias: Float[Tensor, "features"]
    last: Float[Tensor, "features features"]
    last_bias: Float[Tensor, "features"]


class Network(NamedTuple):
    """The weights of the output network, w·ssp(A x + b) + c."""

    first: Float[Tensor, "hidden features"]
    first_bias: Float[Tensor, "hidden"]
    second: Float[Tensor, "1 hidden"]
    second_bias: Float[Tensor, "1"]


class Passed(NamedTuple):
    """What the passes through a block leave behind: values x, h, c, s = ssp(a), s′, and g = ∂(Σ o)/∂ of c, h, a, v."""

    x: Tensor
    h: Tensor
    c: Tensor
    s: Tensor
    ds: Tensor
    gc: Tensor
    gh: Tensor
    ga: Tensor
    gv: Tensor


def outputs_and_slopes(
    x: Float[Tensor, "atoms features"],
    tables: Float[Tensor, "blocks coefficients filters"],
    geometry: Geometry,
    blocks: Sequence[Block],
    network: Network,
) -> tuple[Float[Tensor, "atoms"], Float[Tensor, "atoms 3"]]:
    """The output of every atom, and the derivative of their sum by the positions; differentiable once, by the weights.

    Args:
        x: embeddings of the atoms.
        tables: of the filters of each block.
        geometry: of the pairs of atoms.
        blocks: weights of the interaction blocks.
        network: weights of the output network.
    """
    weights = [weight for part in (*blocks, network) for weight in part]
    return OutputsAndSlopes.apply(geometry, len(blocks), x, tables, *weights)


class OutputsAndSlopes(Function):
    """`outputs_and_slopes`."""

    @staticmethod
    def forward(
        ctx: Any, geometry: Geometry, count: int, x: Tensor, tables: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        blocks = [Block(*weights[5 * t : 5 * t + 5]) for t in range(count)]
        network = Network(*weights[5 * count :])
        values: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
        for block, table in zip(blocks, tables, strict=True):
            h = x @ block.inner.t()
            c = cpu.aggregate(h, geometry.weights, table, geometry.pairs)
            s, ds = cpu.ssp(torch.addmm(block.outer_bias, c, block.outer.t()))
            values.append((x, h, c, s, ds))
            x = torch.addmm(x, s, block.last.t()).add_(block.last_bias)
        y, dy = cpu.ssp(torch.addmm(network.first_bias, x, network.first.t()))
        output = torch.addmv(network.second_bias, y, network.second[0])

        gy = dy * network.second
        gx = gy @ network.first
        of_weights = torch.zeros_like(geometry.weights)
        passed: list[Passed] = []
        for block, table, value in zip(reversed(blocks), tables.flip(0), reversed(values), strict=True):
            h, ds = value[1], value[4]
            ga = (gx @ block.last).mul_(ds)
            gc = ga @ block.outer
            gh = cpu.aggregate(gc, geometry.weights, table, geometry.pairs)
            of_weights += cpu.pair_dot(gc, h, table, geometry.pairs)
            passed.insert(0, Passed(*value, gc, gh, ga, gx))
            gx = torch.addmm(gx, gh, block.inner)
        push = torch.linalg.vecdot(of_weights, geometry.slopes).unsqueeze(1) * geometry.directions
        slopes = push.new_zeros(len(x), 3)
        slopes.index_add_(0, geometry.atoms[0], push).index_add_(0, geometry.atoms[1], push, alpha=-1)

        ctx.geometry, ctx.count = geometry, count
        ctx.save_for_backward(tables, *weights, x, y, dy, gy, *(part for each in passed for part in each))
        return output, slopes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_output: Tensor, of_slopes: Tensor) -> tuple[Tensor | None, ...]:
        geometry, count = ctx.geometry, ctx.count
        tables, *rest = ctx.saved_tensors
        blocks = [Block(*rest[5 * t : 5 * t + 5]) for t in range(count)]
        network, rest = Network(*rest[5 * count : 5 * count + 4]), rest[5 * count + 4 :]
        x, y, dy, gy = rest[:4]
        passed = [Passed(*rest[4 + 9 * t : 13 + 9 * t]) for t in range(count)]
        pairs = geometry.pairs

        towards = (of_slopes[geometry.atoms[0]] - of_slopes[geometry.atoms[1]]).mul_(geometry.directions).sum(1)
        change = geometry.slopes * towards.to(x).unsqueeze(1)  # of the spline weights along the displacement
        along, dots = torch.zeros_like(x), []
        for block, value, table in zip(blocks, passed, tables, strict=True):
            h = along @ block.inner.t()
            c = cpu.aggregate_two(h, geometry.weights, value.h, change, table, pairs)
            a = c @ block.outer.t()
            s = a * value.ds
            dots.append((along, h, c, a, s))
            along = torch.addmm(along, s, block.last.t())

        gradients: list[Tensor] = []
        a = along @ network.first.t()
        weighted = of_output.unsqueeze(1) * network.second
        # ssp″ = s′ (1 − s′), and g of y is w s′
        back = torch.addcmul(weighted * dy, gy * (1 - dy), a)
        second = torch.addmv((a * dy).sum(0), y.t(), of_output).unsqueeze(0)
        first = torch.addmm(back.t() @ x, gy.t(), along)
        gradients += [first, back.sum(0), second, of_output.sum().view(1)]
        mx = back @ network.first
        of_tables = torch.empty_like(tables)
        for t in reversed(range(count)):
            block, value, table, (dx, dh, dc, da, dv) = blocks[t], passed[t], tables[t], dots[t]
            last = torch.addmm(mx.t() @ value.s, value.gv.t(), dv)
            ma = torch.addcmul((mx @ block.last) * value.ds, value.ga * (1 - value.ds), da)
            outer = torch.addmm(ma.t() @ value.c, value.ga.t(), dc)
            mc = ma @ block.outer
            mh = cpu.aggregate_two(mc, geometry.weights, value.gc, change, table, pairs)
            of_tables[t] = cpu.table_grad_two(
                mc, value.h, geometry.weights, value.gc, dh, change, pairs, table.shape[0]
            )
            inner = torch.addmm(mh.t() @ value.x, value.gh.t(), dx)
            gradients = [inner, outer, ma.sum(0), last, mx.sum(0), *gradients]
            mx = torch.addmm(mx, mh, block.inner)
        return None, None, mx, of_tables, *gradients
