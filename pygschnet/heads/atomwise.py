"""Energies, and other properties, as sums over what a network gives for each atom."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch_geometric.data import Data

from pygschnet.graph import molecule_index
from pygschnet.heads.energy import EnergyHead, References
from pygschnet.nn import ACTIVATIONS, dense
from pygschnet.nn.hooks import hooks_of


class Atomwise(EnergyHead):
    """Energy as a sum over atoms: E = Σ_i σ·net(x_i) + μ + e0(Z_i), net being two dense layers.

    Args:
        features: length of the feature vectors.
        hidden: width of the hidden layer; half the features if null.
        activation: of the hidden layer, "ssp", "silu" or "tanh".
        aggregation: "sum", or "mean" for a property that does not grow with the molecule.
        zero_last_layer: start from the energy of the mean, as the released code of 2017 does.
        scale: σ in eV, what one unit of network output stands for; if null the standard deviation of the training
            energies (per atom for a sum), as in the released code.
        shift: μ in eV; if null the mean of the training energies (per atom for a sum).
        references: energies of the isolated atoms in eV by element, such as {"H": -13.6}, zero where not given; "data"
            for those that come with the data; "least_squares" for those that fit the training energies best.

    Source: arXiv:1706.08566, section 4; released code for scale and shift.
    """

    def __init__(
        self,
        features: int = 64,
        hidden: int | None = None,
        activation: Literal["ssp", "silu", "tanh"] = "ssp",
        aggregation: Literal["sum", "mean"] = "sum",
        zero_last_layer: bool = False,
        scale: float | None = None,
        shift: float | None = None,
        references: References | None = None,
    ):
        super().__init__(aggregation, scale, shift, references)
        self.features, self.hidden = features, features // 2 if hidden is None else hidden
        self.activation, self.zero_last_layer = activation, zero_last_layer
        self.dense_1 = dense(features, self.hidden)
        self.dense_2 = dense(self.hidden, 1)
        if zero_last_layer:
            nn.init.zeros_(self.dense_2.weight)

    def network(self) -> list[Tensor] | None:
        """A, b, w and c if E = Σ_i σ (w·ssp(A x_i + b) + c) + …; None if not, or if somebody observes the layers."""
        modules = [self, self.dense_1, self.dense_2]
        if (
            type(self) is not Atomwise
            or self.activation != "ssp"
            or self.aggregation != "sum"
            or any(type(m) is not nn.Linear for m in modules[1:])
        ):
            return None
        if any(hooks for module in modules for hooks in hooks_of(module)):
            return None
        parts = [self.dense_1.weight, self.dense_1.bias, self.dense_2.weight, self.dense_2.bias]
        return None if any(part is None for part in parts) else parts

    def forward(
        self, x: Float[Tensor, "atoms features"], data: Data
    ) -> tuple[Float[Tensor, "molecules"], Float[Tensor, "atoms"]]:
        """Energies of the molecules and of their atoms, in eV, float64; the second add up to the first.

        With mean aggregation the energy is the mean over the atoms, and each atom carries its share of it.
        """
        output = self.dense_2(ACTIVATIONS[self.activation](self.dense_1(x))).squeeze(-1)
        return self.energies(output, data.z, *molecule_index(data))
