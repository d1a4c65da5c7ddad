"""Symmetry functions with their Jacobian, for training on forces.

Autograd alone would keep arrays over triplets of atoms for the second derivatives, and compute derivatives that no
one asks for: symmetry functions have no weights, so that all a training step needs of them is their Jacobian, an
array over edges.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from pygschnet.kernels.activation import in_transform
from pygschnet.nn.symmetry import (
    Recipe,
    angular_factors,
    between,
    channel_pairs,
    distance_factors,
    sum_of_pairs,
    sum_over_partners,
    symmetry_functions,
)


def differentiable_functions(
    vectors: Float[Tensor, "atoms neighbours dimensions"],
    weights: Float[Tensor, "atoms channels neighbours"],
    recipe: Recipe,
    positions: Sequence[Tensor],
) -> Float[Tensor, "atoms functions"]:
    """`symmetry_functions`, whose second derivatives are not computed where nobody can ask for them.

    Args:
        vectors: from the atom to its neighbours, in Å.
        weights: of the neighbours.
        recipe: the parameters.
        positions: the tensors that the vectors come from. A model that has computed its forces no longer requires
            gradients of them.
    """
    if not vectors.requires_grad or in_transform(vectors):
        return symmetry_functions(vectors, weights, recipe)
    return _Functions.apply(vectors, weights, recipe, positions)


class _Functions(Function):
    @staticmethod
    def forward(ctx, vectors, weights, recipe, positions):
        functions, *jacobian = with_jacobian(vectors, weights, recipe)
        ctx.save_for_backward(vectors, weights, *jacobian)
        ctx.settings = recipe, positions
        return functions

    @staticmethod
    def backward(ctx, gradient):
        return _Pull.apply(gradient, *ctx.saved_tensors, *ctx.settings), None, None, None


class _Pull(Function):
    """The gradient by the vectors, of a gradient by the functions."""

    @staticmethod
    def forward(ctx, gradient, vectors, weights, unit, slopes, turns, recipe, positions):
        ctx.save_for_backward(gradient, vectors, weights, unit, slopes, turns)
        ctx.settings = recipe, positions
        along = gradient.unsqueeze(1) @ slopes
        across = gradient[:, None, -turns.shape[1] :] @ turns.flatten(2)
        return (along * unit + across.view_as(unit)).mT

    @staticmethod
    def backward(ctx, displacement):
        gradient, vectors, weights, unit, slopes, turns = ctx.saved_tensors
        recipe, positions = ctx.settings
        if not any(tensor.requires_grad for tensor in positions):
            displacement = displacement.mT
            changes = (slopes @ (displacement * unit).sum(1).unsqueeze(2)).squeeze(2)
            changes[:, -turns.shape[1] :] += (turns.flatten(2) @ displacement.flatten(1).unsqueeze(2)).squeeze(2)
            return changes, *[None] * 7
        further = torch.is_grad_enabled()
        with torch.enable_grad():  # of views: the gradient depends on the vectors too, which is not asked for here
            inputs = [tensor.view_as(tensor).requires_grad_() for tensor in (gradient, vectors)]
            functions = symmetry_functions(inputs[1], weights, recipe)
            pulled = torch.autograd.grad(functions, inputs[1], inputs[0], create_graph=True)
            found = torch.autograd.grad(pulled, inputs, displacement, create_graph=further, materialize_grads=True)
        return *found, *[None] * 6


def with_jacobian(
    vectors: Float[Tensor, "atoms neighbours dimensions"],
    weights: Float[Tensor, "atoms channels neighbours"],
    recipe: Recipe,
) -> tuple[
    Float[Tensor, "atoms functions"],
    Float[Tensor, "atoms dimensions neighbours"],
    Float[Tensor, "atoms functions neighbours"],
    Float[Tensor, "atoms angular dimensions neighbours"],
]:
    """G of every atom, and ∂G_i/∂r_j = s_j u_j + t_j: how it changes as each of the neighbours moves.

    Args:
        vectors: from the atom to its neighbours, in Å.
        weights: of the neighbours.
        recipe: the parameters.

    Returns:
        G; the unit vectors u; s of all functions, and t of the angular ones.
    """
    distances = torch.linalg.vector_norm(vectors, dim=-1)
    unit = vectors / distances.unsqueeze(-1)
    radial, radial_slopes = _radial(distances, weights, recipe)
    angular, slopes, turns = _angular(vectors, unit, distances, weights, recipe)
    return torch.cat([radial, angular], 1), unit.mT.contiguous(), torch.cat([radial_slopes, slopes], 1), turns


def _radial(distances: Tensor, weights: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """G², [atoms, functions], and dG²/dd_ij, [atoms, functions, neighbours]."""
    etas = recipe.radial_etas.unsqueeze(-1)
    offset = distances.unsqueeze(1) - recipe.centres.unsqueeze(-1)
    bells = torch.exp(-etas * offset.square())
    envelope, slope = recipe.envelope(distances).unsqueeze(1), recipe.slope(distances).unsqueeze(1)
    slopes = bells * (slope - 2.0 * etas * offset * envelope)
    functions = (weights * envelope) @ bells.mT
    return functions.flatten(1), (weights.unsqueeze(2) * slopes.unsqueeze(1)).flatten(1, 2)


def _angular(
    vectors: Tensor, unit: Tensor, distances: Tensor, weights: Tensor, recipe: Recipe
) -> tuple[Tensor, Tensor, Tensor]:
    """G⁵ or G⁴, [atoms, functions]; s, [atoms, functions, neighbours]; t, [atoms, functions, dimensions, neighbours].

    A triplet gives w_j b_j A(cosθ_jk) b_k w_k, and ∂cosθ_jk/∂r_j = (u_k − cosθ_jk u_j)/d_j with cosθ_jk = u_j·u_k:
    what is summed over k is A b_k w_k and A′ b_k w_k u_k, for G⁴ with the factors of d_jk.
    """
    angles, turns = angular_factors(unit @ unit.mT, recipe.zetas)
    own = distance_factors(distances, recipe)
    shares = weights.unsqueeze(2) * own.unsqueeze(1)
    third = None
    if recipe.cross_terms:
        apart = between(vectors)
        lengths = torch.linalg.vector_norm(apart, dim=-1)
        third = distance_factors(lengths.flatten(1), recipe)
    partners = sum_over_partners(shares, angles, third)
    turned = [sum_over_partners(shares * u[:, None, None], turns, third) for u in unit.unbind(-1)]
    radial = torch.stack([t * u[:, None, None, None] for t, u in zip(turned, unit.unbind(-1), strict=True)]).sum(0)
    share = own[:, None, :, None]
    inverse = share / distances[:, None, None, None]
    along = _distance_slopes(distances, recipe)[:, None, :, None] * partners - inverse * radial
    across = [inverse * t for t in turned]
    if third is not None:
        stretch = _distance_slopes(lengths.flatten(1), recipe)
        directions = (apart / lengths.unsqueeze(-1)).flatten(1, 2).unbind(2)
        stretched = [sum_over_partners(shares, angles, stretch * x.unsqueeze(1)) for x in directions]
        across = [a + share * b for a, b in zip(across, stretched, strict=True)]
    of_pairs = _of_pairs(along, weights), _of_pairs(torch.stack(across, 4), weights)
    return sum_of_pairs(partners, shares), *of_pairs


def _of_pairs(values: Tensor, weights: Tensor) -> Tensor:
    """What is of channels of partners, [atoms, channels, angular, angles, ..., neighbours], for pairs of channels."""
    if weights.shape[1] == 1:
        return (weights.view(len(weights), *[1] * (values.dim() - 2), weights.shape[2]) * values).flatten(1, 3)
    first, second, once = channel_pairs(weights)
    shape = (len(weights), len(first), *[1] * (values.dim() - 3), weights.shape[2])
    here, there = ((once.unsqueeze(1) * weights[:, channel]).view(shape) for channel in (first, second))
    return (here * values[:, second] + there * values[:, first]).flatten(1, 3)


def _distance_slopes(distances: Tensor, recipe: Recipe) -> Tensor:
    """The derivative of `distance_factors`."""
    d, etas = distances.unsqueeze(1), recipe.angular_etas.unsqueeze(-1)
    return torch.exp(-etas * d.square()) * (recipe.slope(d) - 2.0 * etas * d * recipe.envelope(d))
