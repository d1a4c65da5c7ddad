"""The electronic spatial extent."""

from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Data

from pygschnet.errors import InputError
from pygschnet.graph import molecule_index
from pygschnet.heads.base import per_molecule
from pygschnet.heads.moments import SecondMoments


class SpatialExtent(SecondMoments):
    """Electronic spatial extent ⟨R²⟩ = Σ_i (q_i ‖r_i − r_0‖² + s_i), with q_i and s_i from a network of the features.

    In the unit of the data. r_0 is the centre of mass, so that the origin of the coordinates does not matter. q_i is
    about the number of electrons at the atom where the unit is Å², and s_i how far they are from it. Without s_i, as
    in SchNetPack, a single atom would have no extent; with one q and one s for each element the first hundred molecules
    of QM9 are predicted to 1.4 a0², with q alone to 9.1 a0² (each from the other 99).

    Args:
        features: length of the feature vectors.
        hidden: width of the hidden layer; half the features if null.
        activation: of the hidden layer, "ssp", "silu" or "tanh".
        scale: what an output of one for s_i stands for, in the unit of the data; if null the mean of the training
            labels per atom.

    Source: K. T. Schütt et al., J. Chem. Theory Comput. 15, 448 (2019), for Σ_i q_i ‖r_i − r_0‖².
    """

    quantity = "electronic spatial extent"

    def forward(
        self, x: Float[Tensor, "atoms features"], data: Data
    ) -> tuple[Float[Tensor, "molecules"], Float[Tensor, "atoms"]]:
        """⟨R²⟩ of the molecules and the shares of the atoms, which add up to it, float64.

        Raises:
            InputError: for periodic systems.
        """
        q, s = self.charges_and_shares(x)
        atomic = q * self.arms(data).square().sum(-1) + s
        return per_molecule(atomic, *molecule_index(data)), atomic

    def label(self, values: Float[Tensor, "molecules *given"]) -> Float[Tensor, "molecules"]:
        """The values themselves, one for each molecule."""
        if values.dim() != 1:
            raise InputError(f"⟨R²⟩ is one number per molecule, the labels have the shape {list(values.shape)}")
        return values
