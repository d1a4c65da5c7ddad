"""Energies of atoms that a representation gives by itself."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Data

from pygschnet.graph import molecule_index
from pygschnet.heads.energy import EnergyHead, References


class Sum(EnergyHead):
    """E = Σ_i x_i + μ + e0(Z_i), for representations whose one feature x_i is the energy of the atom in eV: GDML.

    On `Zeros` it is the baseline of every table: with aggregation "mean" and the mean the mean of the training
    energies, with references "least_squares" the best sum of energies of atoms.

    Args:
        aggregation: "sum", or "mean" for a property that does not grow with the molecule.
        mean: whether μ is the mean of the training energies (per atom for a sum); 0 if not.
        references: as of `EnergyHead`.
    """

    features = 1

    def __init__(
        self,
        aggregation: Literal["sum", "mean"] = "sum",
        mean: bool = False,
        references: References | None = None,
    ):
        super().__init__(aggregation, 1.0, None if mean else 0.0, references)
        self.mean = mean

    def forward(
        self, x: Float[Tensor, "atoms features"], data: Data
    ) -> tuple[Float[Tensor, "molecules"], Float[Tensor, "atoms"]]:
        """Energies of the molecules and of their atoms, in eV, float64."""
        return self.energies(x.squeeze(-1), data.z, *molecule_index(data))
