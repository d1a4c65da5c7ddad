"""The continuous-filter convolution."""

from jaxtyping import Float, Int
from torch import Tensor
from torch_geometric.nn import MessagePassing

from pygschnet.kernels import aggregate
from pygschnet.nn.table import TabulatedFilters


class CFConv(MessagePassing):
    """Continuous-filter convolution: c_i = Σ_{j≠i} x_j ∘ W(d_ij).

    A PyG message-passing layer with scatter-add and no weights: those are in whatever makes the filters. With
    `FilterNetwork` on a `GaussianBasis` it is SchNet's; any other filters, in any dimension, will do. Filters from a
    table take fused kernels instead of the scatter-add: the same sum without an array of edges × filters.

    Source: arXiv:1706.08566, section 3.
    """

    def __init__(self) -> None:
        super().__init__(aggr="sum")

    def forward(
        self,
        x: Float[Tensor, "nodes filters"],
        edge_index: Int[Tensor, "2 edges"],
        filters: Float[Tensor, "edges filters"] | TabulatedFilters,
        both_ways: bool = False,
    ) -> Float[Tensor, "nodes filters"]:
        """Convolve.

        Args:
            x: node features, as many as there are filters.
            edge_index: row 0 the sources j, row 1 the targets i.
            filters: W of every edge; or tabulated filters, which bring their own pairs.
            both_ways: whether every edge also stands for its reverse, with the same filter.
        """
        if isinstance(filters, TabulatedFilters):
            return aggregate(x.to(filters.table.dtype), *filters)  # sums in full precision, under autocast too
        c = self.propagate(edge_index, x=x, filters=filters)
        if both_ways:
            c = c + self.propagate(edge_index.flip(0), x=x, filters=filters)
        return c

    def message(self, x_j: Tensor, filters: Tensor) -> Tensor:  # shapes here would hide `propagate` from PyG
        return x_j * filters
