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
        functions, jacobian = with_jacobian(vectors, weights, recipe)
        ctx.save_for_backward(vectors, weights, jacobian)
        ctx.settings = recipe, positions
        return functions

    @staticmethod
    def backward(ctx, gradient):
        return _Pull.apply(gradient, *ctx.saved_tensors, *ctx.settings), None, None, None


class _Pull(Function):
    """The gradient by the vectors, of a gradient by the functions."""

    @staticmethod
    def forward(ctx, gradient, vectors, weights, jacobian, recipe, positions):
        ctx.save_for_backward(gradient, vectors, weights, jacobian)
        ctx.settings = recipe, positions
        return (gradient.unsqueeze(1) @ jacobian.flatten(2)).view(vectors.shape[0], *jacobian.shape[2:]).mT

    @staticmethod
    def backward(ctx, displacement):
        gradient, vectors, weights, jacobian = ctx.saved_tensors
        recipe, positions = ctx.settings
        if not any(tensor.requires_grad for tensor in positions):
            of_gradient = jacobian.flatten(2) @ displacement.mT.flatten(1).unsqueeze(2)
            return of_gradient.squeeze(2), None, None, None, None, None
        further = torch.is_grad_enabled()
        with torch.enable_grad():  # of views: the gradient depends on the vectors too, which is not asked for here
            inputs = [tensor.view_as(tensor).requires_grad_() for tensor in (gradient, vectors)]
            functions = symmetry_functions(inputs[1], weights, recipe)
            pulled = torch.autograd.grad(functions, inputs[1], inputs[0], create_graph=True)
            found = torch.autograd.grad(pulled, inputs, displacement, create_graph=further, materialize_grads=True)
        return *found, None, None, None, None


def with_jacobian(
    vectors: Float[Tensor, "atoms neighbours dimensions"],
    weights: Float[Tensor, "atoms channels neighbours"],
    recipe: Recipe,
) -> tuple[Float[Tensor, "atoms functions"], Float[Tensor, "atoms functions dimensions neighbours"]]:
    """G of every atom, and ∂G_i/∂r_j: how it changes as each of the neighbours moves.

    Args:
        vectors: from the atom to its neighbours, in Å.
        weights: of the neighbours.
        recipe: the parameters.
    """
    distances = torch.linalg.vector_norm(vectors, dim=-1)
    unit = vectors / distances.unsqueeze(-1)
    functions, slopes = _radial(distances, weights, recipe)
    angular, jacobian = _angular(vectors, unit, distances, weights, recipe)
    of_radial = slopes.unsqueeze(2) * unit.mT.unsqueeze(1)
    return torch.cat([functions, angular], 1), torch.cat([of_radial, jacobian], 1)


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
) -> tuple[Tensor, Tensor]:
    """G⁵ or G⁴, [atoms, functions], and ∂G/∂r_j, [atoms, functions, dimensions, neighbours].

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
    turned = torch.stack([sum_over_partners(shares * u[:, None, None], turns, third) for u in unit.unbind(-1)], 4)
    bond, share = unit.mT[:, None, None, None], own[:, None, :, None]
    inverse = share / distances[:, None, None, None]
    along = _distance_slopes(distances, recipe)[:, None, :, None] * partners - inverse * (turned * bond).sum(4)
    pulls = along.unsqueeze(4) * bond + inverse.unsqueeze(4) * turned
    if third is not None:
        stretch = _distance_slopes(lengths.flatten(1), recipe)
        directions = (apart / lengths.unsqueeze(-1)).flatten(1, 2).mT
        stretched = [sum_over_partners(shares, angles, stretch * x.unsqueeze(1)) for x in directions.unbind(1)]
        pulls = pulls + share.unsqueeze(4) * torch.stack(stretched, 4)
    first, second, once = channel_pairs(weights)
    here, there = (once.unsqueeze(1) * weights[:, channel] for channel in (first, second))
    jacobian = here[:, :, None, None, None] * pulls[:, second] + there[:, :, None, None, None] * pulls[:, first]
    return sum_of_pairs(partners, shares), jacobian.flatten(1, 3)


def _distance_slopes(distances: Tensor, recipe: Recipe) -> Tensor:
    """The derivative of `distance_factors`."""
    d, etas = distances.unsqueeze(1), recipe.angular_etas.unsqueeze(-1)
    return torch.exp(-etas * d.square()) * (recipe.slope(d) - 2.0 * etas * d * recipe.envelope(d))
