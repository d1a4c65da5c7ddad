"""The filter-generating network."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pygschnet.nn.activation import dense, shifted_softplus


class FilterNetwork(nn.Module):
    """W(d) = ssp(W₂ ssp(W₁ e(d) + b₁) + b₂): two dense layers on the expanded distance.

    Args:
        gaussians: number of radial basis functions, or of whatever edge attributes there are.
        filters: number of filters.
        final_activation: whether the second layer has an ssp, as in the paper (filters are then above −ln 2) and
            the code of 2017; SchNetPack and PyG have none.

    Source: arXiv:1706.08566, section 4.1 and Fig. 2.
    """

    def __init__(self, gaussians: int, filters: int, final_activation: bool = True):
        super().__init__()
        self.gaussians, self.filters, self.final_activation = gaussians, filters, final_activation
        self.dense_1 = dense(gaussians, filters)
        self.dense_2 = dense(filters, filters)

    def forward(
        self, expansion: Float[Tensor, "edges attributes"], reach: slice = slice(None)
    ) -> Float[Tensor, "edges filters"]:
        """The filters of every edge.

        Args:
            expansion: e(d), or its columns in reach if the others are zero.
            reach: which columns those are.
        """
        hidden = shifted_softplus(F.linear(expansion, self.dense_1.weight[:, reach], self.dense_1.bias))
        filters = self.dense_2(hidden)
        return shifted_softplus(filters) if self.final_activation else filters
