"""The operators in plain PyTorch: any device, any precision, differentiable; what the other kernels are held to.

`convolution` explains them. Nothing here is fused: arrays of pairs × filters are made, and thrown away.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pygschnet.kernels.spline import TAPS


def aggregate(x: Tensor, weights: Tensor, table: Tensor, pairs: Sequence[Tensor]) -> Tensor:
    """y_i = Σ_j x_j ∘ W_ij."""
    first, second, interval = pairs[:3]
    filters = sum(weights[:, m, None] * table[interval + m] for m in range(TAPS))
    return torch.zeros_like(x).index_add(0, first, filters * x[second]).index_add(0, second, filters * x[first])


def pair_dot(g: Tensor, x: Tensor, table: Tensor, pairs: Sequence[Tensor]) -> Tensor:
    """q_pm = Σ_f (g_i x_j + g_j x_i) C_{n(p)+m}."""
    first, second, interval = pairs[:3]
    products = g[first] * x[second] + g[second] * x[first]
    return torch.stack([(products * table[interval + m]).sum(-1) for m in range(TAPS)], dim=-1)


def table_grad(g: Tensor, x: Tensor, weights: Tensor, pairs: Sequence[Tensor], knots: int) -> Tensor:
    """C̄_k = Σ_{n(p)+m=k} w_pm (g_i ∘ x_j + g_j ∘ x_i)."""
    first, second, interval = pairs[:3]
    products = g[first] * x[second] + g[second] * x[first]
    table = x.new_zeros(knots, x.shape[1])
    for m in range(TAPS):
        table = table.index_add(0, interval + m, weights[:, m, None] * products)
    return table
