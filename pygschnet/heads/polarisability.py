"""The polarisability, as a tensor or its isotropic part."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Data

from pygschnet.errors import InputError
from pygschnet.graph import molecule_index
from pygschnet.heads.base import per_molecule
from pygschnet.heads.moments import SecondMoments, isotropic


class Polarisability(SecondMoments):
    """Polarisability α = Σ_i (s_i 1 + q_i (r_i − r_0)(r_i − r_0)ᵀ), with s_i and q_i from a network of the features.

    In the unit of the data. The tensor is symmetric and turns with the molecule; r_0 is the centre of mass, so that
    the origin of the coordinates does not matter.

    Args:
        features: length of the feature vectors.
        hidden: width of the hidden layer; half the features if null.
        activation: of the hidden layer, "ssp", "silu" or "tanh".
        isotropic: give and learn a third of the trace, as QM9 has it, instead of the tensor.
        scale: what an output of one for s_i stands for, in the unit of the data; if null the mean of the training
            labels per atom.

    Source: after K. T. Schütt et al., arXiv:2102.03150 (PaiNN), where vectors learnt with the features stand beside the
        positions; here the features are scalars, and positions all there is.
    """

    quantity = "polarisability"

    def __init__(
        self,
        features: int = 64,
        hidden: int | None = None,
        activation: Literal["ssp", "silu", "tanh"] = "ssp",
        isotropic: bool = False,
        scale: float | None = None,
    ):
        super().__init__(features, hidden, activation, scale)
        self.isotropic = isotropic

    def forward(
        self, x: Float[Tensor, "atoms features"], data: Data
    ) -> tuple[Float[Tensor, "molecules *components"], Float[Tensor, "atoms"]]:
        """Tensors [molecules, 3, 3], or a third of their traces, and what each atom adds to the latter, float64.

        Raises:
            InputError: for periodic systems.
        """
        (q, s), r = self.charges_and_shares(x), self.arms(data)
        batch, molecules = molecule_index(data)
        atomic = q * r.square().sum(-1) / 3 + s
        if self.isotropic:
            return per_molecule(atomic, batch, molecules), atomic
        products = r.unsqueeze(-1) * r.unsqueeze(-2)
        tensors = s.view(-1, 1, 1) * torch.eye(3).to(s) + q.view(-1, 1, 1) * products
        return per_molecule(tensors, batch, molecules), atomic

    def label(self, values: Float[Tensor, "molecules *given"]) -> Float[Tensor, "molecules *components"]:
        """Polarisabilities as they are, or a third of the trace of tensors."""
        tensors = values.dim() == 3 and values.shape[1:] == (3, 3)
        if not tensors and (values.dim() > 1 or not self.isotropic):
            advice = "" if values.dim() > 1 else "; for a third of the trace set isotropic to true"
            raise InputError(
                "a polarisability has three times three components, the labels have the shape "
                f"{list(values.shape)}{advice}"
            )
        return isotropic(values) if self.isotropic else values
