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
    symmetry_functions,
)


def differentiable_functions(
    vectors: Float[Tensor, "atoms neighbours dimensions"],
    weights: Float[Tensor, "atoms neighbours channels"],
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
        return torch.einsum("af,akfx->akx", gradient, jacobian)

    @staticmethod
    def backward(ctx, displacement):
        gradient, vectors, weights, jacobian = ctx.saved_tensors
        recipe, positions = ctx.settings
        if not any(tensor.requires_grad for tensor in positions):
            return torch.einsum("akx,akfx->af", displacement, jacobian), None, None, None, None, None
        further = torch.is_grad_enabled()
        with torch.enable_grad():  # of views: the gradient depends on the vectors too, which is not asked for here
            inputs = [tensor.view_as(tensor).requires_grad_() for tensor in (gradient, vectors)]
            functions = symmetry_functions(inputs[1], weights, recipe)
            pulled = torch.autograd.grad(functions, inputs[1], inputs[0], create_graph=True)
            found = torch.autograd.grad(pulled, inputs, displacement, create_graph=further, materialize_grads=True)
        return *found, None, None, None, None


def with_jacobian(
    vectors: Float[Tensor, "atoms neighbours dimensions"],
    weights: Float[Tensor, "atoms neighbours channels"],
    recipe: Recipe,
) -> tuple[Float[Tensor, "atoms functions"], Float[Tensor, "atoms neighbours functions dimensions"]]:
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
    of_radial = slopes.unsqueeze(-1) * unit.unsqueeze(2)
    return torch.cat([functions, angular], 1), torch.cat([of_radial, jacobian], 2)


def _radial(distances: Tensor, weights: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """G², [atoms, functions], and dG²/dd_ij, [atoms, neighbours, functions]."""
    offset = distances.unsqueeze(-1) - recipe.centres
    bells = torch.exp(-recipe.radial_etas * offset.square())
    envelope, slope = recipe.envelope(distances).unsqueeze(-1), recipe.slope(distances).unsqueeze(-1)
    slopes = bells * (slope - 2.0 * recipe.radial_etas * offset * envelope)
    return (weights.mT @ (bells * envelope)).flatten(1), (weights.unsqueeze(-1) * slopes.unsqueeze(2)).flatten(2)


def _angular(
    vectors: Tensor, unit: Tensor, distances: Tensor, weights: Tensor, recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """G⁵ or G⁴, [atoms, functions], and ∂G/∂r_j, [atoms, neighbours, functions, dimensions].

    A triplet gives w_j b_j A(cosθ_jk) b_k w_k, and ∂cosθ_jk/∂r_j = (u_k − cosθ_jk u_j)/d_j with cosθ_jk = u_j·u_k:
    what is summed over k is A b_k w_k and A′ b_k w_k u_k, for G⁴ with the factors of d_jk.
    """
    angles, turns = angular_factors(unit @ unit.mT, recipe.zetas)
    own = distance_factors(distances, recipe)
    shares = weights.unsqueeze(-1) * own.unsqueeze(2)
    pointing = shares.unsqueeze(-1) * unit[:, :, None, None]
    if recipe.cross_terms:
        apart = between(vectors)
        lengths = torch.linalg.vector_norm(apart, dim=-1)
        third, stretch = distance_factors(lengths, recipe), _distance_slopes(lengths, recipe)
        partners = torch.einsum("asjk,ajke,akce->asjce", angles, third, shares)
        turned = torch.einsum("asjk,ajke,akcex->asjcex", turns, third, pointing)
        stretched = torch.einsum("asjk,ajke,akce,ajkx->asjcex", angles, stretch, shares, apart / lengths.unsqueeze(-1))
    else:
        partners = torch.einsum("asjk,akce->asjce", angles, shares)
        turned = torch.einsum("asjk,akcex->asjcex", turns, pointing)
    bond, share = unit[:, None, :, None, None], own[:, None, :, None]
    inverse = share / distances[:, None, :, None, None]
    along = _distance_slopes(distances, recipe)[:, None, :, None] * partners - inverse * (turned * bond).sum(-1)
    pulls = along.unsqueeze(-1) * bond + inverse.unsqueeze(-1) * turned
    if recipe.cross_terms:
        pulls = pulls + share.unsqueeze(-1) * stretched
    first, second, once = channel_pairs(weights.shape[2], weights)
    pulls = pulls.permute(0, 2, 3, 1, 4, 5).flatten(3, 4)  # [atoms, neighbours, channels, functions, dimensions]
    here, there = (once * weights[:, :, channel] for channel in (first, second))
    jacobian = here[..., None, None] * pulls[:, :, second] + there[..., None, None] * pulls[:, :, first]
    return sum_of_pairs(partners, shares), jacobian.flatten(2, 3)


def _distance_slopes(distances: Tensor, recipe: Recipe) -> Tensor:
    """The derivative of `distance_factors`."""
    d, etas = distances.unsqueeze(-1), recipe.angular_etas
    return torch.exp(-etas * d.square()) * (recipe.slope(d) - 2.0 * etas * d * recipe.envelope(d))
