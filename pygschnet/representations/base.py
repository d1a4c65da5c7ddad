"""What every representation offers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch_geometric.data import Data


class Representation(nn.Module, ABC):
    """Turns a graph into a feature vector for every atom.

    Attributes:
        features: length of the feature vector.
        cutoff: radius in Å within which the edges must be complete; None means all pairs.
    """

    features: int
    cutoff: float | None

    @abstractmethod
    def forward(self, data: Data) -> Float[Tensor, "atoms features"]:
        """The features of every atom of `data`, which is not changed."""

    def once(self, data: Data) -> Float[Tensor, "atoms features"]:
        """The same features, for a caller who will differentiate them once, with respect to positions and cell only."""
        return self(data)

    def outputs(self, data: Data, network: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor] | None:
        """The output network of every atom, and the derivatives of their sum by `pos` and by strain, without autograd.

        Args:
            data: one system or a batch.
            network: A, b, w and c of w·ssp(A x + b) + c.

        Returns:
            [atoms], [atoms, 3] and [3, 3]; None if there is no such way for this graph or representation.
        """
        return None
