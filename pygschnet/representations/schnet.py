"""SchNet."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch_geometric.data import Data

from pygschnet.graph import MAX_Z, edge_distances, unique_pairs
from pygschnet.kernels import available, make_pairs
from pygschnet.kernels.activation import in_transform
from pygschnet.kernels.spline import locate, spline_weights
from pygschnet.nn import Cutoff, FilterNetwork, GaussianBasis, InteractionBlock
from pygschnet.nn.cutoff import Form
from pygschnet.nn.table import Knots, TabulatedFilters, accurate_enough, kept, tabulate
from pygschnet.representations.base import Representation

WORTH_A_TABLE = 400
"""Pairs from which on training a table takes less time than training filters pair by pair."""


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
        filters_from: "table" evaluates the filter networks at a few hundred distances and interpolates (docs/speed.md);
            "pairs" evaluates them for every pair of atoms; "edges" for both directions, as the paper's equations are
            written. "auto" takes whichever is fastest to float32's precision.

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
        filters_from: Literal["auto", "table", "pairs", "edges"] = "auto",
    ):
        super().__init__()
        self.features, self.filters, self.interactions = features, filters, interactions
        self.gaussians, self.gamma = gaussians, gamma
        self.gaussian_start, self.gaussian_stop = gaussian_start, gaussian_stop
        self.cutoff, self.cutoff_form = cutoff, cutoff_form
        self.filter_final_activation, self.embedding_std = filter_final_activation, embedding_std
        self.filters_from = filters_from

        self._kept: tuple[Any, Tensor | None] | None = None  # a table, and what it was made from
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
        if self.filters_from == "edges":
            pairs, distances, both_ways = data.edge_index, edge_distances(data), False
        else:
            pairs, distances, both_ways = unique_pairs(data)
        filters: Iterable[Tensor | TabulatedFilters] | None = None
        if both_ways and self._tabulates(x, len(distances)):
            filters = self.tabulated_filters(pairs, distances, len(x))
        if filters is None:
            filters = self.filters_at(distances.to(x.dtype))
        for block, block_filters in zip(self.blocks, filters, strict=True):
            x = x + block(x, pairs, block_filters, both_ways)
        return x

    def _tabulates(self, x: Tensor, pairs: int) -> bool:
        """Whether filters are taken from a table.

        Not in float64, whose digits a table does not have, nor for so few pairs that training them costs less than
        training a table.
        """
        if self.filters_from != "auto":
            return self.filters_from == "table"
        worthwhile = pairs >= WORTH_A_TABLE if self.training else pairs > 0
        return worthwhile and x.dtype == torch.float32 and available(x.device, x.dtype)

    def tabulated_filters(
        self, index: Int[Tensor, "2 pairs"], distances: Float[Tensor, "pairs"], atoms: int
    ) -> list[TabulatedFilters] | None:
        """The filters of each interaction block, from a table; None if a table would not be accurate.

        Args:
            index: the pairs; row 0 the one atom, row 1 the other.
            distances: in Å.
            atoms: how many atoms there are.
        """
        dtype = self.embedding.weight.dtype
        knots = self._knots(distances)
        tables = self._tables(knots)
        if tables is None:
            return None
        interval, u = locate(distances, knots.spacing, knots.first, tables.shape[1])
        weights = spline_weights(u.to(dtype))
        if self.cutoff_form != "none":
            weights = weights * self.envelope(distances.to(dtype)).unsqueeze(-1)
        pairs = make_pairs(index[1], index[0], interval, atoms, tables.shape[1])
        return [TabulatedFilters(weights, table, pairs) for table in tables.unbind()]

    def _knots(self, distances: Tensor) -> Knots:
        """Knots for these distances; for all that may occur where reading numbers is slow or the table is kept."""
        reach = self.gaussian_stop + 6 / math.sqrt(2 * self.basis.gamma)  # beyond, the filters are constant
        if distances.is_cuda or in_transform(distances):
            return Knots.between(0.0, reach if self.cutoff is None else self.cutoff, self.basis)
        if self.cutoff is not None and not self.training:
            return Knots.between(0.0, self.cutoff, self.basis)
        shortest, longest = (float(end) for end in distances.detach().aminmax())
        longest = min(longest, reach) if math.isfinite(longest) else reach
        if self.training:
            return Knots.between(min(shortest, longest), longest, self.basis)
        return Knots.between(0.0, 2.0 * math.ceil(longest / 2.0), self.basis)

    def _tables(self, knots: Knots) -> Float[Tensor, "interactions coefficients filters"] | None:
        """The coefficients; in evaluation they are checked, and kept until the weights change."""
        networks: Any = list(self.filter_networks)
        basis = self.basis
        if self.training or in_transform(self.embedding.weight):
            return tabulate(networks, basis, knots)
        state = (knots, [(parameter.data_ptr(), parameter._version) for parameter in self.filter_networks.parameters()])
        found = self._kept  # another thread may replace it
        if found is None or found[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                accurate = self.filters_from == "table" or accurate_enough(networks, basis, knots)
                found = self._kept = state, tabulate(networks, basis, knots) if accurate else None
        return None if found[1] is None else kept(found[1], networks, basis, knots)

    def train(self, mode: bool = True) -> "SchNet":
        """Switch between training and evaluation, for which tables of filters are kept."""
        self._kept = None
        return super().train(mode)

    def filters_at(self, distances: Float[Tensor, "pairs"]) -> Iterator[Float[Tensor, "pairs filters"]]:
        """W(d) of each interaction block, the cutoff function included."""
        reach = self.basis.reach(distances)
        expansion, envelope = self.basis(distances, reach), self.envelope(distances).unsqueeze(-1)
        for network in self.filter_networks:
            filters = network(expansion, reach)
            yield filters if self.cutoff_form == "none" else filters * envelope
