"""Quintic B-splines on equally spaced knots: W(d) = Σ_m w_m(u) C_{n+m} with d = (n + u) h, 0 ≤ u < 1.

The six weights w_m are polynomials of degree 5 in u and the same for all filters, so that everything that is done per
pair and filter is a product with them. Differentiation acts on the weights alone and stays in the family: W′ has the
weights w′/h and the same coefficients C. Four derivatives are continuous. The spline through values at the knots is
off by about (kh/2π)⁶ where the function oscillates as eⁱᵏᵈ.

Source: Unser, IEEE Signal Process. Mag. 16 (6), 22 (1999).
"""

import functools

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

TAPS = 6
"""Coefficients that a point feels: the degree of the spline, plus one."""

POLYNOMIALS = np.array(  # of 120 w_m: a row per power of u, a column per m
    [
        [1, 26, 66, 26, 1, 0],
        [-5, -50, 0, 50, 5, 0],
        [10, 20, -60, 20, 10, 0],
        [-10, 20, 0, -20, 10, 0],
        [5, -20, 30, -20, 5, 0],
        [-1, 5, -10, 10, -5, 1],
    ]
)


@functools.lru_cache
def _polynomials(order: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Of the derivatives d^k w_m / du^k."""
    rows = POLYNOMIALS / 120.0
    for _ in range(order):
        rows = np.vstack([np.arange(1, TAPS)[:, None] * rows[1:], np.zeros((1, TAPS))])
    return torch.tensor(rows, dtype=dtype, device=device)


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u: Tensor, order: int) -> Tensor:
        ctx.save_for_backward(u)
        ctx.order = order
        square = u * u
        cube = square * u
        powers = torch.stack([torch.ones_like(u), u, square, cube, square * square, square * cube], dim=-1)
        return powers @ _polynomials(order, u.dtype, u.device)

    @staticmethod
    def backward(ctx, gradient):
        (u,) = ctx.saved_tensors
        return (gradient * _Weights.apply(u, ctx.order + 1)).sum(-1), None


def spline_weights(u: Float[Tensor, "pairs"], order: int = 0) -> Float[Tensor, "pairs taps"]:
    """d^k w_m / du^k; differentiable in u as often as one likes.

    Args:
        u: place between two knots, from 0 to 1.
        order: k.
    """
    return _Weights.apply(u, order)


@functools.lru_cache(maxsize=64)
def interpolation(knots: int) -> Float[np.ndarray, "coefficients knots"]:
    """The matrix that turns values at the knots into the coefficients of the spline through them.

    There are four more coefficients than knots. As many jumps of the fifth derivative, next to the ends, are zero
    ("not a knot"); what that costs in accuracy halves with every knot away from the ends.

    Args:
        knots: how many values, at least 8.
    """
    conditions = np.zeros((knots + 4, knots + 4))
    for k in range(knots):
        conditions[k, k : k + 5] = POLYNOMIALS[0, :5] / 120.0
    for row, k in enumerate((0, 1, knots - 4, knots - 3), start=knots):
        conditions[row, k : k + 7] = [1, -6, 15, -20, 15, -6, 1]
    return np.linalg.inv(conditions)[:, :knots]


def locate(
    distances: Float[Tensor, "pairs"], spacing: float, first: int, coefficients: int
) -> tuple[Int[Tensor, "pairs"], Float[Tensor, "pairs"]]:
    """The interval n of each distance, counted from the first knot, and the place u in it.

    Whatever the distances are, not a number included, the intervals are inside the table.

    Args:
        distances: d, in Å.
        spacing: h, in Å.
        first: which multiple of the spacing the first knot is.
        coefficients: length of the table.
    """
    t = distances / spacing
    n = t.detach().floor()
    return (n.to(torch.int32) - first).clamp_(0, coefficients - TAPS), t - n
