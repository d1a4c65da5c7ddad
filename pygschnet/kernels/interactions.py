"""All interaction blocks of SchNet in one call, for small molecules, where calling operators takes most of the time.

Only the first derivative with respect to the pairs' weights is there: what energies and forces need, not training.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from pygschnet.kernels import cpu
from pygschnet.kernels.spline import TAPS

ATOMS, PAIRS = 64, 1000
"""Up to so many, one call on one thread is faster than many calls on several."""


class Packed(NamedTuple):
    """The dense layers of all blocks, laid out for `interactions.c`.

    Attributes:
        forward: of W_in, W_f and W_d of all blocks.
        backward: the same, transposed, the last block first.
        biases: b_f and b_d.
    """

    forward: list[Tensor]
    backward: list[Tensor]
    biases: Tensor


def pack(
    in2f: Sequence[Tensor], f2out: Sequence[Tensor], dense: Sequence[Tensor], biases: Sequence[Tensor]
) -> Packed | None:
    """Lay out weights; None for numbers of features or filters, or a precision, that the kernel does not take."""
    width = 2 * cpu.REALS.get(in2f[0].dtype, ("", 1))[1]
    if cpu.library(in2f[0].dtype) is None or any(size % width for size in in2f[0].shape):
        return None
    layers = (in2f, f2out, dense)
    return Packed(
        [torch.stack([_panels(weight.t(), width) for weight in layer]) for layer in layers],
        [torch.stack([_panels(weight, width) for weight in reversed(layer)]) for layer in layers],
        torch.stack(list(biases)),
    )


def _panels(matrix: Tensor, width: int) -> Tensor:
    return matrix.detach().unflatten(1, (-1, width)).transpose(0, 1).contiguous()


class Interactions(Function):
    """x after all blocks; arguments as of `aggregate`, with the tables of all blocks."""

    @staticmethod
    def forward(ctx, x: Tensor, weights: Tensor, tables: Tensor, pairs: Sequence[Tensor], packed: Packed) -> Tensor:
        x, weights = x.clone(memory_format=torch.contiguous_format), weights.contiguous()
        (atoms, features), (blocks, knots, filters) = x.shape, tables.shape
        h, slopes = x.new_empty(blocks, atoms, filters), x.new_empty(blocks, atoms, features)
        scratch = x.new_empty(2, atoms, max(features, filters))
        sizes = (blocks, atoms, features, filters, len(weights), knots)
        arrays = (x, *packed.forward, packed.biases, weights, tables, *pairs[:3], h, slopes, scratch)
        cpu.call("interactions", arrays, *sizes)
        ctx.packed, ctx.sizes = packed, sizes
        ctx.save_for_backward(weights, tables, *pairs[:3], h, slopes, scratch)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        q = g.new_empty(2, ctx.sizes[4], TAPS)
        g = g.clone(memory_format=torch.contiguous_format)
        cpu.call("interactions_backward", (g, *ctx.packed.backward, *ctx.saved_tensors, q), *ctx.sizes)
        return None, q[0], None, None, None
