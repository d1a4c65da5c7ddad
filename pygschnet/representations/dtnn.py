"""The deep tensor neural network."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing
from torch_geometric.typing import OptTensor

from pygschnet.elements import MAX_Z
from pygschnet.graph import unique_pairs
from pygschnet.nn import Cutoff, GaussianBasis, dense
from pygschnet.nn.cutoff import Form
from pygschnet.representations.base import Representation


class TensorInteraction(MessagePassing):
    """v_i = Σ_{j≠i} f(d_ij) tanh(W_fc[(W_cf c_j + b₁) ∘ D_ij]), D_ij being the factor of the distance.

    The hyperbolic tangent comes after the product of the factors, so that v_ij ≠ v_ji, unlike SchNet's filters, needs
    a matrix product for either direction.

    Args:
        features: length B of the feature vectors.
        factors: length of the products of atom and distance.

    Source: arXiv:1609.08259, whose tensor V_k, contracted with c_j and d̂_ij, is given by its factors.
    """

    def __init__(self, features: int, factors: int):
        super().__init__(aggr="sum")
        self.atom_factor = dense(features, factors)
        self.from_factors = dense(factors, features, bias=False)

    def forward(
        self,
        c: Float[Tensor, "nodes features"],
        edge_index: Int[Tensor, "2 edges"],
        distance_factors: Float[Tensor, "edges factors"],
        envelope: Float[Tensor, "edges 1"] | None = None,
        both_ways: bool = False,
    ) -> Float[Tensor, "nodes features"]:
        """The sum of what each node receives.

        Args:
            c: node features.
            edge_index: row 0 the sources j, row 1 the targets i.
            distance_factors: D of every edge.
            envelope: the cutoff function f of every edge; 1 if not given.
            both_ways: whether every edge also stands for its reverse, at the same distance.
        """
        factors = self.atom_factor(c)
        v = self.propagate(edge_index, factors=factors, distance_factors=distance_factors, envelope=envelope)
        if both_ways:
            edge_index = edge_index.flip(0)
            v = v + self.propagate(edge_index, factors=factors, distance_factors=distance_factors, envelope=envelope)
        return v

    def message(self, factors_j: Tensor, distance_factors: Tensor, envelope: OptTensor) -> Tensor:
        v = torch.tanh(self.from_factors(factors_j * distance_factors))
        return v if envelope is None else v * envelope


class DTNN(Representation):
    """DTNN: c⁰ = c_Z, then c_i ← c_i + Σ_{j≠i} v_ij, v_ij = tanh(W_fc[(W_cf c_j + b₁) ∘ (W_df d̂_ij + b₂)]).

    All T passes share their weights, and the factor of the distances is computed once for all of them, and once for
    both directions of a pair. The defaults are those of the released code; `preset:dtnn` is the paper's.

    Args:
        features: length B of the feature vectors.
        factors: length of the products of atom and distance.
        interactions: number T of passes.
        gaussians: number of radial basis functions.
        gaussian_start: centre of the first, in Å.
        gaussian_stop: centre of the last, in Å.
        gamma: their γ in Å⁻², 1/(2σ²) with the paper's σ; 1/(2Δ²) for centres Δ apart if null.
        cutoff: radius in Å of the neighbourhood; null, as in the paper, for all pairs.
        cutoff_form: "none", "hard", "cosine", "polynomial" or "mollifier": the function that multiplies v_ij, which the
            paper has not. Crystals need one.
        embedding_std: standard deviation of the initial embeddings.
        zero_interactions: start from W_fc = 0, so that atoms do not see each other at first, as the released code does.

    Source: K. T. Schütt et al., Nat. Commun. 8, 13890 (2017), arXiv:1609.08259, and the code released with it.
    """

    def __init__(
        self,
        features: int = 30,
        factors: int = 60,
        interactions: int = 3,
        gaussians: int = 100,
        gaussian_start: float = 0.0,
        gaussian_stop: float = 20.0,
        gamma: float | None = 12.5,
        cutoff: float | None = None,
        cutoff_form: Form = "none",
        embedding_std: float = 0.4272870,
        zero_interactions: bool = True,
    ):
        super().__init__()
        self.features, self.factors, self.interactions = features, factors, interactions
        self.gaussians, self.gamma = gaussians, gamma
        self.gaussian_start, self.gaussian_stop = gaussian_start, gaussian_stop
        self.cutoff, self.cutoff_form = cutoff, cutoff_form
        self.embedding_std, self.zero_interactions = embedding_std, zero_interactions

        self.embedding = nn.Embedding(MAX_Z + 1, features)  # row 0 belongs to no element
        nn.init.normal_(self.embedding.weight, std=embedding_std)
        self.basis = GaussianBasis(gaussian_start, gaussian_stop, gaussians, gamma)
        self.envelope = Cutoff(cutoff, cutoff_form)
        self.distance_factor = dense(gaussians, factors)
        self.interaction = TensorInteraction(features, factors)
        if zero_interactions:
            nn.init.zeros_(self.interaction.from_factors.weight)

    def forward(self, data: Data) -> Float[Tensor, "atoms features"]:
        c = self.embedding(data.z)
        pairs, distances, both_ways = unique_pairs(data)
        distances = distances.to(c.dtype)
        factors = self.distance_factors(distances)
        envelope = None if self.cutoff_form == "none" else self.envelope(distances).unsqueeze(-1)
        for _ in range(self.interactions):
            c = c + self.interaction(c, pairs, factors, envelope, both_ways)
        return c

    def distance_factors(self, distances: Float[Tensor, "pairs"]) -> Float[Tensor, "pairs factors"]:
        """W_df d̂ + b₂, which all passes use.

        Args:
            distances: d, in Å.
        """
        reach = self.basis.reach(distances)
        layer = self.distance_factor
        return F.linear(self.basis(distances, reach), layer.weight[:, reach], layer.bias)
