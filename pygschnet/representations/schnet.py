"""SchNet."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch_geometric.data import Data

from pygschnet.elements import MAX_Z
from pygschnet.graph import edge_distances, unique_pairs
from pygschnet.kernels import Pairs, available, cpu, make_pairs, molecule
from pygschnet.kernels.activation import in_transform
from pygschnet.kernels.spline import locate, spline_weights
from pygschnet.nn import Cutoff, FilterNetwork, GaussianBasis, InteractionBlock
from pygschnet.nn.cutoff import Form
from pygschnet.nn.table import Knots, TabulatedFilters, accurate_enough, remembered, tabulate
from pygschnet.representations import whole
from pygschnet.representations.base import Representation
from pygschnet.representations.watch import Watch


class Kept(NamedTuple):
    """What is kept in evaluation: tables and dense layers, and the state of the weights they were made from."""

    state: Any
    knots: Knots
    tables: Tensor | None
    packed: molecule.Packed | None


WORTH_A_TABLE = 150
"""Pairs from which on training layer by layer takes less time with a table than with filters pair by pair."""


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
        relative_width: standard deviations of the Gaussians in units of their centres, which then follow each other in
            equal ratios from a first one above 0, in place of gamma; null for equal widths.

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
        relative_width: float | None = None,
    ):
        super().__init__()
        self.features, self.filters, self.interactions = features, filters, interactions
        self.gaussians, self.gamma, self.relative_width = gaussians, gamma, relative_width
        self.gaussian_start, self.gaussian_stop = gaussian_start, gaussian_stop
        self.cutoff, self.cutoff_form = cutoff, cutoff_form
        self.filter_final_activation, self.embedding_std = filter_final_activation, embedding_std
        self.filters_from = filters_from

        self._kept: Kept | None = None
        self._watch: Watch | None = None
        self.embedding = nn.Embedding(MAX_Z + 1, features)  # row 0 belongs to no element
        nn.init.normal_(self.embedding.weight, std=embedding_std)
        self.basis = GaussianBasis(gaussian_start, gaussian_stop, gaussians, gamma, relative_width)
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
        filters = self.filters_of(pairs, distances, len(x), both_ways)
        for block, block_filters in zip(self.blocks, filters, strict=True):
            x = x + block(x, pairs, block_filters, both_ways)
        return x

    def filters_of(
        self, index: Int[Tensor, "2 pairs"], distances: Float[Tensor, "pairs"], atoms: int, both_ways: bool
    ) -> Iterable[Tensor | TabulatedFilters]:
        """The filters of each interaction block, from a table where that is faster, else pair by pair.

        Args:
            index: the pairs.
            distances: in Å.
            atoms: how many atoms there are.
            both_ways: whether a pair stands for both directions, as it does for filters from a table.
        """
        tabulated = None
        few = self.training and len(distances) < WORTH_A_TABLE
        if both_ways and len(distances) and self.tabulates(few):
            tabulated = self.tabulated_filters(index, distances, atoms)
        return self.filters_at(distances.to(self.embedding.weight.dtype)) if tabulated is None else tabulated

    def tabulates(self, few: bool = False) -> bool:
        """Whether filters are taken from a table.

        Not in float64, whose digits a table does not have; not under the transforms of torch.func; and not for so few
        pairs that a table would take longer.
        """
        if self.filters_from != "auto" or torch._C._are_functorch_transforms_active():
            return self.filters_from == "table"
        weight = self.embedding.weight
        return not few and weight.dtype == torch.float32 and available(weight.device, weight.dtype)

    def tabulated_filters(
        self, index: Int[Tensor, "2 pairs"], distances: Float[Tensor, "pairs"], atoms: int
    ) -> list[TabulatedFilters] | None:
        """The filters of each interaction block, from a table; None if a table would not be accurate.

        Args:
            index: the pairs; row 0 the one atom, row 1 the other.
            distances: in Å.
            atoms: how many atoms there are.
        """
        splines = self._splines(index, distances, atoms)
        if splines is None:
            return None
        weights, tables, pairs = splines
        return [TabulatedFilters(weights, table, pairs) for table in tables.unbind()]

    def once(self, data: Data) -> Float[Tensor, "atoms features"]:
        x = self.embedding(data.z).detach()
        if type(self).forward is not SchNet.forward or self.training or not self.tabulates():
            return self(data)
        index, distances, both_ways = unique_pairs(data)
        if not both_ways or len(distances) == 0:
            return self(data)
        splines = self._splines(index, distances, len(x), constant=True)
        if splines is None:
            return self(data)
        weights, tables, pairs = splines
        for block, table in zip(self.blocks, tables, strict=True):
            x = x + block(x, index, TabulatedFilters(weights, table, pairs), both_ways)
        return x

    def outputs(self, data: Data, network: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor] | None:
        return whole.outputs(self, data, network) if type(self).forward is SchNet.forward else None

    def trained(self, data: Data, network: Sequence[Tensor]) -> tuple[Tensor, Tensor] | None:
        return whole.trained(self, data, network) if type(self).forward is SchNet.forward else None

    @property
    def end(self) -> float:
        """The distance in Å from which on filters are zero."""
        return math.inf if self.cutoff is None or self.cutoff_form == "none" else self.cutoff

    def _splines(
        self, index: Tensor, distances: Tensor, atoms: int, constant: bool = False
    ) -> tuple[Tensor, Tensor, Pairs] | None:
        """Weights of the pairs, tables of all blocks, and pairs."""
        dtype = self.embedding.weight.dtype
        knots = self.knots(distances)
        tables = self.tables(knots, constant)
        if tables is None:
            return None
        compiled = distances.device.type == "cpu" and cpu.library(distances.dtype) is not None
        if constant and compiled and self.cutoff_form in whole.KERNELS:
            scales = torch.tensor([knots.spacing, self.end], dtype=torch.float64)
            cosine = self.cutoff_form == "cosine"
            weights, interval = cpu.PairWeights.apply(distances, scales, knots.first, tables.shape[1], cosine, dtype)
        else:
            interval, u = locate(distances, knots.spacing, knots.first, tables.shape[1])
            weights = spline_weights(u.to(dtype))
            if self.cutoff_form != "none":
                weights = weights * self.envelope(distances.to(dtype)).unsqueeze(-1)
        return weights, tables, make_pairs(index[1], index[0], interval, atoms, tables.shape[1])

    def knots(self, distances: Tensor) -> Knots:
        """Knots for these distances; for all that may occur where reading numbers is slow or the table is kept."""
        reach = self.basis.end  # beyond, the filters are constant
        if distances.is_cuda or in_transform(distances):
            return Knots.between(0.0, reach if self.cutoff is None else self.cutoff, self.basis)
        if self.cutoff is not None and not self.training:
            return Knots.between(0.0, self.cutoff, self.basis)
        shortest, longest = (float(end) for end in distances.detach().aminmax())
        if not math.isfinite(longest):
            shortest, longest = 0.0, reach
        longest = min(longest, reach)
        if self.training:
            return Knots.between(min(shortest, longest), longest, self.basis)
        needed, kept = Knots.between(0.0, 2.0 * math.ceil(longest / 2.0), self.basis), self._kept
        return needed if kept is None or kept.knots.number < needed.number else kept.knots

    def tables(self, knots: Knots, constant: bool = False) -> Float[Tensor, "blocks coefficients filters"] | None:
        """The coefficients; in evaluation they are checked, and kept until the weights change."""
        networks: Any = list(self.filter_networks)
        if self.training or in_transform(self.embedding.weight):
            return tabulate(networks, self.basis, knots)
        if self._watch is None or self._watch.outdated():
            self._watch = Watch(self)
        state, kept = (knots, self._watch.state()), self._kept  # which another thread may replace
        if kept is None or kept.state != state:
            with torch.inference_mode(False), torch.no_grad():
                accurate = self.filters_from == "table" or accurate_enough(networks, self.basis, knots)
                tables = tabulate(networks, self.basis, knots) if accurate else None
                kept = self._kept = Kept(state, knots, tables, whole.pack(self.blocks))
        if kept.tables is None or constant:
            return kept.tables
        return remembered(kept.tables, networks, self.basis, knots)

    def train(self, mode: bool = True) -> "SchNet":
        """Switch between training and evaluation, for which tables of filters are kept."""
        self._kept = self._watch = None
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SchNet":
        """Move or cast; tables kept so far are of other weights then."""
        self._kept = self._watch = None
        return super()._apply(fn, recurse)

    def filters_at(self, distances: Float[Tensor, "pairs"]) -> Iterator[Float[Tensor, "pairs filters"]]:
        """W(d) of each interaction block, the cutoff function included."""
        reach = self.basis.reach(distances)
        expansion, envelope = self.basis(distances, reach), self.envelope(distances).unsqueeze(-1)
        for network in self.filter_networks:
            filters = network(expansion, reach)
            yield filters if self.cutoff_form == "none" else filters * envelope
