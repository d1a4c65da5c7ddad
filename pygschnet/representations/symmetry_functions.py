"""Atom-centred symmetry functions, the input of Behler–Parrinello networks."""

import copy
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from ase.data import chemical_symbols
from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Data

from pygschnet.elements import MAX_Z, distinct_numbers_of
from pygschnet.errors import InputError
from pygschnet.graph import edge_vectors
from pygschnet.nn.cutoff import Cutoff
from pygschnet.nn.exact import ExactBuffers
from pygschnet.nn.symmetry import Recipe, neighbour_table
from pygschnet.nn.symmetry_jacobian import differentiable_functions
from pygschnet.representations.base import Representation

ARRAY = 2**21
"""The most numbers in an array over triplets: of larger systems a few atoms are computed at a time."""

CONSTANT = 1e-4
"""Standard deviation below which a function counts as constant: divided by it, a distance that the training data do
not have would become a number as large as no network knows."""


class SymmetryFunctions(ExactBuffers, Representation):
    """Standardised symmetry functions: x_i = (G_i − mean_Z) / (std_Z + 10⁻⁹), with nothing to train by descent.

    G² = Σ_j w_j exp(−η (d_ij − μ)²) f(d_ij)
    G⁵ = 2^{1−ζ} Σ_{j<k} w_j w_k (1 + λ cosθ_ijk)^ζ exp(−η (d_ij² + d_ik²)) f(d_ij) f(d_ik)

    Each unordered pair {j, k} of neighbours counts once, which is half of the double sum of the original papers. The
    weights are w_j = Z_j (weighted functions, wACSF); or there are functions of their own for every element among the
    neighbours and every unordered pair of them (ACSF). With Δ the distance of two centres and s evenly spaced from
    1 Å to r_c − 0.5 Å:

    radial: μ evenly spaced from 0.5 Å to r_c − 0.5 Å and η = 1/(2Δ²); centred: μ = 0 and η = 1/(2s²)
    angular: λ = ±1, every ζ, and η = 1/(2s²)

    Functions are ordered by element of the neighbour and μ; then by pair of elements, η, ζ and λ. They are computed in
    the precision of the positions and standardised in float64, by mean and standard deviation of each function over the
    training atoms of each element; those that are constant there give 0. `float()` and `double()` say in which
    precision they are handed to the head.

    Args:
        weighted: whether to weight by nuclear charge rather than resolve the elements.
        elements: symbols of those to be resolved; not needed for weighted functions.
        radial: number of radial functions, for each element.
        angular: number of η of the angular functions.
        zetas: exponents ζ of the angular functions, integers from 1.
        cross_terms: whether the angular functions are G⁴, which have d_jk² in the exponent and the factor f(d_jk).
        cutoff: r_c in Å.
        cutoff_form: of f: "cosine", "polynomial" or "mollifier".
        centred: whether the radial functions are centred on the atom, and differ in width.

    Raises:
        InputError: for elements or numbers that make no functions.

    Source: Behler and Parrinello, Phys. Rev. Lett. 98, 146401 (2007); Behler, J. Chem. Phys. 134, 074106 (2011);
        Gastegger et al., J. Chem. Phys. 148, 241709 (2018) for the weights; SchNetPack 1.0 for the parameters.
    """

    cast = ("precision",)
    centres: Float[Tensor, "radial"]
    radial_etas: Float[Tensor, "radial"]
    angular_etas: Float[Tensor, "angular"]
    weights: Float[Tensor, "elements channels"]
    mean: Float[Tensor, "elements features"]
    scale: Float[Tensor, "elements features"]
    precision: Float[Tensor, ""]

    def __init__(
        self,
        weighted: bool = True,
        elements: Sequence[str] | None = None,
        radial: int = 22,
        angular: int = 5,
        zetas: Sequence[int] = (1,),
        cross_terms: bool = False,
        cutoff: float = 5.0,
        cutoff_form: Literal["cosine", "polynomial", "mollifier"] = "cosine",
        centred: bool = False,
    ):
        super().__init__()
        if not cutoff > 1.5:
            raise InputError(f"symmetry functions have widths from 1 Å to 0.5 Å below the cutoff, which is {cutoff} Å")
        if radial < 2 or angular < 1 or not zetas or any(zeta < 1 for zeta in zetas):
            raise InputError(
                f"symmetry functions need 2 radial and 1 angular function and integers ζ from 1, got {radial}, "
                f"{angular} and {list(zetas)}"
            )
        if not weighted and not elements:
            raise InputError('functions that resolve the elements need their symbols, such as elements: ["H", "C"]')
        self.weighted, self.elements = weighted, elements
        self.radial, self.angular, self.zetas = radial, angular, list(zetas)
        self.cross_terms, self.cutoff, self.cutoff_form, self.centred = cross_terms, cutoff, cutoff_form, centred
        self.envelope = Cutoff(cutoff, cutoff_form)

        centres = torch.linspace(0.5, cutoff - 0.5, radial, dtype=torch.float64)
        widths = torch.linspace(1.0, cutoff - 0.5, radial, dtype=torch.float64)
        radial_etas = 0.5 / (widths if centred else torch.full_like(centres, float(centres[1] - centres[0]))) ** 2
        angular_etas = 0.5 / torch.linspace(1.0, cutoff - 0.5, angular, dtype=torch.float64) ** 2
        weights = charges() if weighted else one_hot(elements or [])
        self.register_buffer("centres", torch.zeros_like(centres) if centred else centres, persistent=False)
        self.register_buffer("radial_etas", radial_etas, persistent=False)
        self.register_buffer("angular_etas", angular_etas, persistent=False)
        self.register_buffer("weights", weights, persistent=False)

        channels = weights.shape[1]
        self.features = radial * channels + 2 * angular * len(self.zetas) * (channels * (channels + 1) // 2)
        self.register_buffer("mean", torch.zeros(MAX_Z + 1, self.features, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(MAX_Z + 1, self.features, dtype=torch.float64))
        self.register_buffer("precision", torch.zeros(()), persistent=False)  # its dtype is that of the features

    def forward(self, data: Data) -> Float[Tensor, "atoms features"]:
        x = (self.functions(data).double() - self.mean[data.z]) * self.scale[data.z]
        return x.to(self.precision.dtype)

    def functions(self, data: Data) -> Float[Tensor, "atoms features"]:
        """G of every atom, as it is, in the precision of the positions.

        Raises:
            InputError: for neighbours of an element that is not among those to be resolved.
        """
        vectors = edge_vectors(data)
        weights = self.weights.to(vectors)[data.z[data.edge_index[0]]]
        if not self.weighted and (unknown := (weights == 0).all(1)).any():
            symbol = chemical_symbols[int(data.z[data.edge_index[0]][unknown][0])]
            raise InputError(f"there are symmetry functions for {', '.join(self.elements or [])}, not for {symbol}")
        nobody = torch.eye(1, vectors.shape[1]).to(vectors) * self.cutoff  # where an atom has fewer neighbours
        vectors, weights = torch.cat([vectors, nobody]), torch.cat([weights, torch.zeros_like(weights[:1])])
        parameters = (self.centres.to(vectors), self.radial_etas.to(vectors), self.angular_etas.to(vectors))
        recipe = Recipe(*parameters, self.zetas, self.envelope, self.cross_terms)
        positions = [data.pos, data.cell] if "cell" in data else [data.pos]
        table = neighbour_table(data.edge_index[1], len(data.z))
        return torch.cat(
            [
                differentiable_functions(_rows(vectors, rows), _rows(weights, rows).mT, recipe, positions)
                for rows in table.split(self._atoms_at_once(table.shape[1]))
            ]
        )

    def _atoms_at_once(self, neighbours: int) -> int:
        triplets = neighbours**2 * max(2 * len(self.zetas), 3) * (self.angular if self.cross_terms else 1)
        return max(1, ARRAY // max(1, triplets, 3 * neighbours * self.features))

    def fit(self, training: Iterable[Data], validation: Iterable[Data]) -> None:
        """Take mean and standard deviation of each function over the training atoms of each element.

        Args:
            training: batches of molecules with edges.
            validation: not looked at.

        Source: Chan, Golub and LeVeque, Technical Report STAN-CS-79-773 (1979), for the sums of several batches.
        """
        mean, squares = torch.zeros_like(self.mean), torch.zeros_like(self.mean)
        atoms = mean.new_zeros(len(mean), 1)
        for batch in training:
            data = copy.copy(batch).to(mean.device)
            values = self.functions(data).double()
            count = torch.zeros_like(atoms).index_add(0, data.z, values.new_ones(len(values), 1))
            here = torch.zeros_like(mean).index_add(0, data.z, values) / count.clamp_min(1)
            difference, atoms = here - mean, atoms + count
            share = count / atoms.clamp_min(1)
            squares = squares.index_add(0, data.z, (values - here[data.z]).square())
            squares = squares + difference.square() * (atoms - count) * share
            mean = mean + difference * share
        deviation = (squares / atoms.clamp_min(1)).sqrt()
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(deviation > CONSTANT, 1 / (deviation + 1e-9), 0.0))

    @property
    def fitted(self) -> bool:
        """Whether `fit` has seen training data."""
        return bool((self.scale != 1).any())


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    return values.index_select(0, rows.flatten()).view(*rows.shape, values.shape[1])


def charges() -> Float[Tensor, "elements 1"]:
    """w_j = Z_j."""
    return torch.arange(MAX_Z + 1, dtype=torch.float64).unsqueeze(1)


def one_hot(elements: Sequence[str]) -> Float[Tensor, "elements channels"]:
    """A channel for each element.

    Raises:
        InputError: for unknown elements, or one that is listed twice.
    """
    weights = torch.zeros(MAX_Z + 1, len(elements), dtype=torch.float64)
    weights[distinct_numbers_of(elements), range(len(elements))] = 1.0
    return weights
