"""Atom-centred symmetry functions of the neighbours of every atom."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pygschnet.nn.cutoff import SLOPES, Cutoff


class Recipe(NamedTuple):
    """The parameters of a set of symmetry functions.

    Attributes:
        centres: μ of the radial functions, in Å.
        radial_etas: η of the radial functions, in Å⁻².
        angular_etas: η of the angular functions, in Å⁻².
        zetas: ζ of the angular functions.
        cutoff: the cutoff function f.
        cross_terms: whether the angular functions are G⁴, with the distance between the neighbours, or G⁵.
    """

    centres: Float[Tensor, "radial"]
    radial_etas: Float[Tensor, "radial"]
    angular_etas: Float[Tensor, "angular"]
    zetas: Sequence[int]
    cutoff: Cutoff
    cross_terms: bool

    def envelope(self, distances: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """f(d)."""
        return self.cutoff(distances.flatten()).view_as(distances)

    def slope(self, distances: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """f′(d)."""
        return SLOPES[self.cutoff.form](distances.flatten(), self.cutoff.cutoff).view_as(distances)


def neighbour_table(target: Int[Tensor, "edges"], atoms: int) -> Int[Tensor, "atoms neighbours"]:
    """The edges that end in each atom, a row for each, filled up with the number of edges, which is no edge.

    Args:
        target: the atom that each edge ends in, in any order.
        atoms: how many there are.
    """
    order = torch.argsort(target, stable=True)
    counts = torch.bincount(target, minlength=atoms)
    row = target[order]
    column = torch.arange(len(target), device=target.device) - (counts.cumsum(0) - counts)[row]
    table = target.new_full((atoms, int(counts.max()) if atoms else 0), len(target))
    table[row, column] = order
    return table


def symmetry_functions(
    vectors: Float[Tensor, "atoms neighbours dimensions"],
    weights: Float[Tensor, "atoms channels neighbours"],
    recipe: Recipe,
) -> Float[Tensor, "atoms functions"]:
    """`radial_functions`, then `angular_functions`, of every atom.

    Args:
        vectors: from the atom to its neighbours, in Å.
        weights: w of the neighbours; 0 where there is none, and the vector any that is not shorter than the cutoff.
        recipe: the parameters.
    """
    distances = torch.linalg.vector_norm(vectors, dim=-1)
    radial = radial_functions(distances, weights, recipe)
    return torch.cat([radial, angular_functions(vectors, distances, weights, recipe)], dim=1)


def radial_functions(
    distances: Float[Tensor, "atoms neighbours"], weights: Float[Tensor, "atoms channels neighbours"], recipe: Recipe
) -> Float[Tensor, "atoms functions"]:
    """G² = Σ_j w_j exp(−η (d_ij − μ)²) f(d_ij), for every channel of weights and every μ.

    Source: Behler, J. Chem. Phys. 134, 074106 (2011).
    """
    bells = torch.exp(-recipe.radial_etas * (distances.unsqueeze(-1) - recipe.centres).square())
    return ((weights * recipe.envelope(distances).unsqueeze(1)) @ bells).flatten(1)


def angular_functions(
    vectors: Float[Tensor, "atoms neighbours dimensions"],
    distances: Float[Tensor, "atoms neighbours"],
    weights: Float[Tensor, "atoms channels neighbours"],
    recipe: Recipe,
) -> Float[Tensor, "atoms functions"]:
    """G⁵ = 2^{1−ζ} Σ_{j<k} w_j w_k (1 + λ cosθ_ijk)^ζ exp(−η (d_ij² + d_ik²)) f(d_ij) f(d_ik), for every η, ζ, λ = ±1.

    G⁴ has d_jk² in the exponent and the factor f(d_jk) besides. Of several channels of weights each unordered pair of
    channels is summed apart, over the unordered pairs of neighbours that have a weight in the one and in the other.

    Source: Behler, J. Chem. Phys. 134, 074106 (2011), with each pair of neighbours counted once.
    """
    unit = vectors / distances.unsqueeze(-1)
    angles = angular_factors(unit @ unit.mT, recipe.zetas)[0]
    shares = weights.unsqueeze(2) * distance_factors(distances, recipe).unsqueeze(1)
    if recipe.cross_terms:
        third = distance_factors(torch.linalg.vector_norm(between(vectors), dim=-1).flatten(1), recipe)
        return sum_of_pairs(sum_over_partners(shares, angles, third), shares)
    return sum_of_pairs(sum_over_partners(shares, angles), shares)


def angular_factors(
    cosines: Float[Tensor, "atoms neighbours neighbours"], zetas: Sequence[int]
) -> tuple[
    Float[Tensor, "atoms neighbours functions neighbours"], Float[Tensor, "atoms neighbours functions neighbours"]
]:
    """2^{1−ζ} (1 + λ cosθ)^ζ for every ζ and λ = 1, −1, and its derivative by cosθ; 0 of a neighbour and itself."""
    different = 1.0 - torch.eye(cosines.shape[-1], dtype=cosines.dtype, device=cosines.device).unsqueeze(1)
    bases = torch.stack([1.0 + cosines, 1.0 - cosines], 2)
    signs = bases.new_tensor([1.0, -1.0]).unsqueeze(1)
    powers = [2.0 ** (1 - zeta) * different * bases ** (zeta - 1) for zeta in zetas]
    factors = torch.cat([power * bases for power in powers], 2)
    return factors, torch.cat([zeta * signs * power for zeta, power in zip(zetas, powers, strict=True)], 2)


def distance_factors(
    distances: Float[Tensor, "atoms distances"], recipe: Recipe
) -> Float[Tensor, "atoms angular distances"]:
    """exp(−η d²) f(d) for every η of the angular functions."""
    exponent = recipe.angular_etas.unsqueeze(-1) * distances.square().unsqueeze(1)
    return torch.exp(-exponent) * recipe.envelope(distances).unsqueeze(1)


def between(
    vectors: Float[Tensor, "atoms neighbours dimensions"],
) -> Float[Tensor, "atoms neighbours neighbours dimensions"]:
    """r_k − r_j of all neighbours j, k; of one and itself 1 Å long, because a length of 0 has no derivative."""
    same = torch.eye(vectors.shape[1], dtype=vectors.dtype, device=vectors.device).unsqueeze(-1)
    return vectors.unsqueeze(1) - vectors.unsqueeze(2) + same


def sum_over_partners(
    shares: Float[Tensor, "atoms channels angular neighbours"],
    angles: Float[Tensor, "atoms neighbours angles neighbours"],
    third: Float[Tensor, "atoms angular triplets"] | None = None,
) -> Float[Tensor, "atoms channels angular angles neighbours"]:
    """Σ_k of the shares of k, the factors of the angle between j and k, and for G⁴ the factors of their distance."""
    if third is None:
        return (shares.flatten(1, 2) @ angles.flatten(2)).view(*shares.shape[:3], *angles.shape[2:])
    neighbours = shares.shape[-1]
    return torch.einsum("aekj,aksj,acek->acesj", third.unflatten(2, (neighbours, neighbours)), angles, shares)


def sum_of_pairs(
    partners: Float[Tensor, "atoms channels angular angles neighbours"],
    shares: Float[Tensor, "atoms channels angular neighbours"],
) -> Float[Tensor, "atoms functions"]:
    """Σ_j of the shares of j and of what its partners give, for every unordered pair of channels."""
    first, second, once = channel_pairs(shares)
    sums = (shares[:, first].unsqueeze(3) * partners[:, second]).sum(-1)
    return (sums * once.view(-1, 1, 1)).flatten(1)


def channel_pairs(of: Float[Tensor, "atoms channels *any"]) -> tuple[Tensor, Tensor, Tensor]:
    """The unordered pairs of channels, and ½ for like ones, whose neighbours are counted from both ends."""
    first, second = torch.triu_indices(of.shape[1], of.shape[1], device=of.device)
    return first, second, 1.0 - 0.5 * (first == second).to(of.dtype)
