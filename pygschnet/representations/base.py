"""What every representation offers."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

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

    def fit(self, training: Iterable[Data], validation: Iterable[Data]) -> None:
        """Take from data what is not learnt by descent, and keep it in buffers: here nothing.

        Args:
            training: batches of molecules with edges and labels, as often as asked for.
            validation: the same of the validation data.
        """
        return

    @property
    def fitted(self) -> bool:
        """Whether there is nothing that `fit` should find."""
        return True

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

    def trained(self, data: Data, network: Sequence[Tensor]) -> tuple[Tensor, Tensor] | None:
        """The output network of every atom, and the derivative of their sum by `pos`, to be differentiated once more.

        Args:
            data: one molecule or a batch.
            network: A, b, w and c of w·ssp(A x + b) + c.

        Returns:
            [atoms] and [atoms, 3], whose gradients reach the weights, not the positions; None if there is no such way.
        """
        return None
