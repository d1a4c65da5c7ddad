"""What properties made of positions about the centre of mass have in common."""

from abc import ABC
from typing import ClassVar, Literal

import torch
from ase.data import atomic_masses
from jaxtyping import Float, Int
from torch import Tensor
from torch_geometric.data import Data

from pygschnet.elements import MAX_Z
from pygschnet.errors import InputError
from pygschnet.graph import molecule_index
from pygschnet.heads.base import Head, per_molecule
from pygschnet.nn import ACTIVATIONS, dense


class Moments(Head, ABC):
    """A network of the features, and positions about the centre of mass r_0, on whose origin nothing then depends.

    The network runs in float32, everything else in float64.

    Args:
        features: length of the feature vectors.
        hidden: width of the hidden layer; half the features if null.
        activation: of the hidden layer, "ssp", "silu" or "tanh".
        outputs: numbers that the network gives for each atom.

    Attributes:
        quantity: what the property is called.
    """

    quantity: ClassVar[str]
    masses: Float[Tensor, "elements"]

    def __init__(self, features: int, hidden: int | None, activation: Literal["ssp", "silu", "tanh"], outputs: int):
        super().__init__()
        self.features, self.hidden = features, features // 2 if hidden is None else hidden
        self.activation = activation
        self.dense_1 = dense(features, self.hidden)
        self.dense_2 = dense(self.hidden, outputs)
        self.register_buffer("masses", torch.from_numpy(atomic_masses[: MAX_Z + 1].copy()), persistent=False)

    def latent(self, x: Float[Tensor, "atoms features"]) -> Float[Tensor, "atoms outputs"]:
        """What the network gives for each atom, in float64."""
        return self.dense_2(ACTIVATIONS[self.activation](self.dense_1(x))).double()

    def arms(self, data: Data) -> Float[Tensor, "atoms 3"]:
        """r_i − r_0, in Å, float64.

        Raises:
            InputError: for periodic systems.
        """
        if "cell" in data and data.pbc.any():
            name = type(self).__name__
            raise InputError(f"the {self.quantity} of a crystal is not defined: use a model without a {name} head")
        batch, molecules = molecule_index(data)
        pos, masses = data.pos.double(), self.masses[data.z].unsqueeze(-1)
        centre = per_molecule(masses * pos, batch, molecules) / per_molecule(masses, batch, molecules)
        return pos - centre[batch]


class SecondMoments(Moments):
    """The tensor Σ_i σ (q_i (r_i − r_0)(r_i − r_0)ᵀ + s_i 1), with q and s from the network, or a number made of it.

    Args:
        features: length of the feature vectors.
        hidden: width of the hidden layer; half the features if null.
        activation: of the hidden layer, "ssp", "silu" or "tanh".
        scale: σ, what an output of one for s_i stands for, in the unit of the data; if null the mean of the training
            labels per atom.
    """

    sigma: Float[Tensor, ""]

    def __init__(
        self,
        features: int = 64,
        hidden: int | None = None,
        activation: Literal["ssp", "silu", "tanh"] = "ssp",
        scale: float | None = None,
    ):
        super().__init__(features, hidden, activation, outputs=2)
        self.scale = scale
        self.register_buffer("sigma", torch.tensor(1.0 if scale is None else scale, dtype=torch.float64))

    def fit(
        self, z: Int[Tensor, "atoms"], batch: Int[Tensor, "atoms"], label: Float[Tensor, "molecules *components"]
    ) -> None:
        """Take the scale, if it is not given, and the known elements from training data.

        Args:
            z: atomic numbers of all training molecules.
            batch: the molecule of each atom.
            label: of the molecules; of tensors a third of the trace counts.
        """
        mean = (isotropic(label).double() / torch.bincount(batch, minlength=len(label)).to(label.device)).mean()
        if self.scale is None and mean != 0:
            self.sigma.copy_(mean)
        super().fit(z, batch, label)

    def charges_and_shares(self, x: Float[Tensor, "atoms features"]) -> tuple[Tensor, Tensor]:
        """σq_i, per Å², and σs_i, both [atoms]."""
        q, s = (self.sigma * self.latent(x)).unbind(-1)
        return q, s


def isotropic(values: Float[Tensor, "molecules *components"]) -> Float[Tensor, "molecules"]:
    """A third of the trace of tensors; numbers as they are."""
    return values if values.dim() == 1 else values.diagonal(dim1=-2, dim2=-1).mean(-1)


def spread(label: Float[Tensor, "molecules *components"]) -> Float[Tensor, ""]:
    """How much labels vary about what does not depend on how the molecules happen to be turned.

    That is the mean of numbers, zero for vectors, and for tensors the mean of a third of their traces, times 1.
    """
    if label.dim() != 2:
        mean = isotropic(label).mean()
        label = label - (mean if label.dim() == 1 else mean * torch.eye(3).to(label))
    return label.square().mean().sqrt()
