"""SchNet."""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor, nn
from torch_geometric.data import Data

from pygschnet.graph import MAX_Z, unique_pairs
from pygschnet.nn import Cutoff, FilterNetwork, GaussianBasis, InteractionBlock
from pygschnet.nn.cutoff import Form
from pygschnet.representations.base import Representation


class SchNet(Representation):
    """SchNet: x⁰ = a_Z, then x ← x + v(x) for every interaction block.

    The defaults are the paper's. `pygschnet.preset` gives this and the other published variants together with
    their output networks.

    Args:
        features: length F of the feature vectors.
        filters: number of filters of the continuous-filter convolutions.
        interactions: number T of interaction blocks, which share no weights.
        gaussians: number of radial basis functions.
        gaussian_start: centre of the first, in Å.
        gaussian_stop: centre of the last, in Å.
        gamma: their γ in Å⁻²; 1/(2Δ²) for centres Δ apart if null.
        cutoff: radius in Å of the neighbourhood; null for all pairs.
        cutoff_form: "none", "hard", "cosine", "polynomial" or "mollifier".
        filter_final_activation: whether the filter networks end with an ssp.
        embedding_std: standard deviation of the initial embeddings.

    Source: arXiv:1706.08566, section 4.
    """

    def __init__(
        self,
        features: int = 64,
        filters: int = 64,
        interactions: int = 3,
        gaussians: int = 300,
        gaussian_start: float = 0.0,
        gaussian_stop: float = 30.0,
        gamma: float | None = 10.0,
        cutoff: float | None = None,
        cutoff_form: Form = "none",
        filter_final_activation: bool = True,
        embedding_std: float = 1.0,
    ):
        super().__init__()
        self.features, self.filters, self.interactions = features, filters, interactions
        self.gaussians, self.gamma = gaussians, gamma
        self.gaussian_start, self.gaussian_stop = gaussian_start, gaussian_stop
        self.cutoff, self.cutoff_form = cutoff, cutoff_form
        self.filter_final_activation, self.embedding_std = filter_final_activation, embedding_std

        self.embedding = nn.Embedding(MAX_Z + 1, features)  # row 0 belongs to no element
        nn.init.normal_(self.embedding.weight, std=embedding_std)
        self.basis = GaussianBasis(gaussian_start, gaussian_stop, gaussians, gamma)
        self.envelope = Cutoff(cutoff, cutoff_form)
        self.filter_networks = nn.ModuleList(
            FilterNetwork(gaussians, filters, filter_final_activation) for _ in range(interactions)
        )
        self.blocks = nn.ModuleList(InteractionBlock(features, filters) for _ in range(interactions))

    def forward(self, data: Data) -> Float[Tensor, "atoms features"]:
        x = self.embedding(data.z)
        pairs, distances, both_ways = unique_pairs(data)
        for block, filters in zip(self.blocks, self.filters_at(distances.to(x.dtype)), strict=True):
            x = x + block(x, pairs, filters, both_ways)
        return x

    def filters_at(self, distances: Float[Tensor, "pairs"]) -> Iterator[Float[Tensor, "pairs filters"]]:
        """W(d) of each interaction block, the cutoff function included."""
        reach = self.basis.reach(distances)
        expansion, envelope = self.basis(distances, reach), self.envelope(distances).unsqueeze(-1)
        for network in self.filter_networks:
            filters = network(expansion, reach)
            yield filters if self.cutoff_form == "none" else filters * envelope
