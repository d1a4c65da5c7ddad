"""The dipole moment, from charges of the atoms that are learnt with it."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Data

from pygschnet.errors import InputError
from pygschnet.graph import molecule_index
from pygschnet.heads.base import per_molecule
from pygschnet.heads.moments import Moments

EPSILON = 1e-6
"""In e·Å: the magnitude is √(‖μ‖² + ε²), whose gradient is 0, not undefined, where symmetry lets μ vanish."""


class Dipole(Moments):
    """Dipole moment of latent charges: μ = Σ_i q_i (r_i − r_0), q_i = q̃_i + (Q − Σ_k q̃_k)/n, q̃_i = net(x_i).

    In e·Å. The charges q_i, in e, add up to the charge Q of the molecule exactly; Q is the field `charge` of the data,
    0 if there is none. r_0 is the centre of mass: of a neutral molecule μ does not depend on it, and of an ion it
    makes μ independent of the origin of the coordinates. The network runs in float32, everything else in float64.

    Magnitudes alone do not say which charges are positive: q and −q fit them equally well.

    Args:
        features: length of the feature vectors.
        hidden: width of the hidden layer; half the features if null.
        activation: of the hidden layer, "ssp", "silu" or "tanh".
        magnitude: give and learn √(‖μ‖² + ε²), ε = 10⁻⁶ e·Å, instead of μ; of labels that are vectors the magnitude
            is taken, for data whose dipoles are not in the frame of their positions.

    Source: Gastegger, Behler and Marquetand, Chem. Sci. 8, 6924 (2017), for dipoles of latent charges; Unke and
        Meuwly, J. Chem. Theory Comput. 15, 3678 (2019), for the conservation of charge.
    """

    quantity = "dipole"

    def __init__(
        self,
        features: int = 64,
        hidden: int | None = None,
        activation: Literal["ssp", "silu", "tanh"] = "ssp",
        magnitude: bool = False,
    ):
        super().__init__(features, hidden, activation, outputs=1)
        self.magnitude = magnitude

    def forward(
        self, x: Float[Tensor, "atoms features"], data: Data
    ) -> tuple[Float[Tensor, "molecules *components"], Float[Tensor, "atoms"]]:
        """Dipole moments of the molecules in e·Å, or their magnitudes, and charges of the atoms in e, float64.

        Raises:
            InputError: for periodic systems.
        """
        batch, molecules = molecule_index(data)
        latent, r = self.latent(x).squeeze(-1), self.arms(data)
        missing = (data.charge.double() if "charge" in data else 0.0) - per_molecule(latent, batch, molecules)
        charges = latent + (missing / torch.bincount(batch, minlength=molecules))[batch]
        dipole = per_molecule(charges.unsqueeze(-1) * r, batch, molecules)
        return (dipole.square().sum(-1) + EPSILON**2).sqrt() if self.magnitude else dipole, charges

    def label(self, values: Float[Tensor, "molecules *given"]) -> Float[Tensor, "molecules *components"]:
        """Dipole moments as they are, or their magnitudes."""
        vectors = values.dim() == 2 and values.shape[1] == 3
        if not vectors and (values.dim() > 1 or not self.magnitude):
            advice = "" if values.dim() > 1 else "; for magnitudes set magnitude to true"
            raise InputError(f"a dipole has three components, the labels have the shape {list(values.shape)}{advice}")
        return torch.linalg.vector_norm(values, dim=-1) if vectors and self.magnitude else values
