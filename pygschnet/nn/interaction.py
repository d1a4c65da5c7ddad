"""The interaction block."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from pygschnet.nn.activation import dense, shifted_softplus
from pygschnet.nn.cfconv import CFConv
from pygschnet.nn.table import TabulatedFilters


class InteractionBlock(nn.Module):
    """v = W_d ssp(W_f cfconv(W_in x) + b_f) + b_d; the features become x + v.

    Args:
        features: number of node features F.
        filters: number of filters.

    Source: arXiv:1706.08566, section 4.1 and Fig. 2.
    """

    def __init__(self, features: int, filters: int):
        super().__init__()
        self.in2f = dense(features, filters, bias=False)
        self.cfconv = CFConv()
        self.f2out = dense(filters, features)
        self.dense = dense(features, features)

    def forward(
        self,
        x: Float[Tensor, "nodes features"],
        edge_index: Int[Tensor, "2 edges"],
        filters: Float[Tensor, "edges filters"] | TabulatedFilters,
        both_ways: bool = False,
    ) -> Float[Tensor, "nodes features"]:
        """The update v of the features x; `CFConv.forward` explains the arguments."""
        c = self.cfconv(self.in2f(x), edge_index, filters, both_ways)
        return self.dense(shifted_softplus(self.f2out(c)))
