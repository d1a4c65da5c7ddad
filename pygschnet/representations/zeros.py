"""No representation."""

from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Data

from pygschnet.representations.base import Representation


class Zeros(Representation):
    """x_i = 0: with the head `Sum`, what can be said without looking at positions, the baselines of every table."""

    features = 1
    cutoff = None

    def __init__(self) -> None:
        super().__init__()

    def forward(self, data: Data) -> Float[Tensor, "atoms features"]:
        return 0.0 * data.pos[:, :1]  # so that there is something to differentiate: the forces are zero
