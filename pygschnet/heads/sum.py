"""Energies of atoms that a representation gives by itself."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Data

from pygschnet.graph import molecule_index
from pygschnet.heads.energy import EnergyHead, References


class Sum(EnergyHead):
    """E = Σ_i σ·x_i + μ + e0(Z_i), for representations whose one feature x_i is the energy of the atom: GDML.

    On `Zeros` it is the baseline of every table: with shift null and aggregation "mean" the mean of the training
    energies, with references "least_squares" the best sum of energies of atoms.

    Args:
        aggregation: "sum", or "mean" for a property that does not grow with the molecule.
        scale: σ in eV; 1 takes the features as energies in eV; if null as of `EnergyHead`.
        shift: μ in eV; if null the mean of the training energies (per atom for a sum).
        references: as of `EnergyHead`.
    """

    features = 1

    def __init__(
        self,
        aggregation: Literal["sum", "mean"] = "sum",
        scale: float | None = 1.0,
        shift: float | None = 0.0,
        references: References | None = None,
    ):
        super().__init__(aggregation, scale, shift, references)

    def forward(
        self, x: Float[Tensor, "atoms features"], data: Data
    ) -> tuple[Float[Tensor, "molecules"], Float[Tensor, "atoms"]]:
        """Energies of the molecules and of their atoms, in eV, float64."""
        return self.energies(x.squeeze(-1), data.z, *molecule_index(data))
