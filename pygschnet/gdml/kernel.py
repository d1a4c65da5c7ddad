"""The kernel of forces, and energies from it.

Matérn's kernel ν = 5/2 of two descriptors, κ(δ) = (1 + u + u²/3) e^(−u) with δ = D − D′ and u = √5 ‖δ‖/σ, describes the
covariance of energies. That of energies and forces, and of forces, follow by differentiation:

    ∂κ/∂D        = −(5/(3σ²)) (1 + u) e^(−u) δ
    ∂²κ/∂D∂D′ᵀ   = (5/(3σ²)) e^(−u) [(1 + u) I − (5/σ²) δ δᵀ] = H(δ)
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pygschnet.gdml.descriptor import permuted_pairs

CHUNK = 2**21
"""Numbers of a matrix of frames by training points that are held at a time."""

SMALLEST = 1e-30
"""Squares u² below it are taken for it: of √u² at 0 there is no derivative, and what it multiplies is 0 there."""


def assemble(
    matrix: Float[Tensor, "size size"],
    points: Float[Tensor, "frames pairs"],
    slopes: Float[Tensor, "frames pairs coordinates"],
    permutations: Int[Tensor, "permutations atoms"],
    sigma: float,
) -> None:
    """Fill K: its block of frames i and j is Σ_π J_iᵀ H(D_i − P_π D_j) P_π J_j.

    Args:
        matrix: filled in place; its size is frames times coordinates.
        points: descriptors of the training frames, in 1/Å.
        slopes: their derivatives J, in 1/Å².
        permutations: a group of them, or the identity alone.
        sigma: σ in 1/Å.

    Source: Chmiela et al., Sci. Adv. 3, e1603015 (2017), Eq. 2; the sum over permutations: Nat. Commun. 9, 3887 (2018).
    """
    frames, pairs, width = slopes.shape
    order, blocks = permuted_pairs(permutations), matrix.view(frames, width, frames, width)
    for j in range(frames):
        others, slope = points[j:], slopes[j, order]  # [permutations, pairs, coordinates]
        delta = others.unsqueeze(1) - points[j, order]  # [frames from j on, permutations, pairs]
        u = 5**0.5 / sigma * torch.linalg.vector_norm(delta, dim=-1)
        weight = 5 / (3 * sigma**2) * torch.exp(-u)
        product = ((weight * (1 + u)) @ slope.flatten(1)).view(-1, pairs, width)
        along = (delta.transpose(0, 1) @ slope).transpose(0, 1)  # δᵀ P J_j
        product -= (5 / sigma**2) * (delta * weight.unsqueeze(-1)).mT @ along
        block = slopes[j:].mT @ product  # [frames from j on, coordinates of i, coordinates of j]
        blocks[j, :, j:] = block.permute(2, 0, 1)
        blocks[j + 1 :, :, j] = block[1:]


class Expansion(torch.autograd.Function):
    """Σ_j (1 + u_j) e^(−u_j) (x − x_j) ∘ v_j for every frame, where u_j = ‖x − x_j‖; closed under differentiation.

    Written with products of matrices, and in chunks whose intermediate results are not kept: the derivative is known
    in closed form. Descriptors should come with their mean subtracted, for the sake of the digits; what rounding is
    left in u² near 0 does not matter, as (1 + u) e^(−u) = 1 − u²/2 + …. What does not depend on x is given with the
    points x_j and directions v_j: the products x_j ∘ v_j, and the sums of v_j and of these over j.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, points: Tensor, directions: Tensor, products: Tensor, totals: Tensor) -> Tensor:
        return torch.cat([_expansion(part, points, directions, products, totals) for part in _chunks(x, points)])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        x, points, *constants = ctx.saved_tensors
        parts = zip(_chunks(x, points), _chunks(cotangent, points), strict=True)
        gradient = torch.cat([_derivative(part, weights, points, *constants) for part, weights in parts])
        return gradient, None, None, None, None


def _chunks(x: Tensor, points: Tensor) -> tuple[Tensor, ...]:
    return x.split(max(1, CHUNK // len(points)))


def _distances(x: Tensor, points: Tensor) -> Tensor:
    """u_j = ‖x − x_j‖."""
    squares = x.square().sum(-1, keepdim=True) + points.square().sum(-1) - 2 * x @ points.mT
    return squares.clamp_min(SMALLEST).sqrt()


def _less_one(u: Tensor) -> Tensor:
    """(1 + u) e^(−u) − 1, without losing digits where it is small.

    Its sums are taken apart from those of 1: the directions v_j are many, large, and nearly cancel.
    """
    return (1 + u) * torch.expm1(-u) + u


def _expansion(x: Tensor, points: Tensor, directions: Tensor, products: Tensor, totals: Tensor) -> Tensor:
    less_one = _less_one(_distances(x, points))
    return x * (totals[0] + less_one @ directions) - (totals[1] + less_one @ products)


def _derivative(
    x: Tensor, cotangent: Tensor, points: Tensor, directions: Tensor, products: Tensor, totals: Tensor
) -> Tensor:
    """g ∘ Σ_j (1 + u_j) e^(−u_j) v_j − Σ_j e^(−u_j) (x − x_j) ((x − x_j) ∘ g)·v_j, where g is the cotangent."""
    u = _distances(x, points)
    weights = torch.exp(-u) * ((cotangent * x) @ directions.mT - cotangent @ products.mT)
    of_directions = totals[0] + _less_one(u) @ directions
    return cotangent * of_directions - x * weights.sum(-1, keepdim=True) + weights @ points
