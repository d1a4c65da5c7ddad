"""What every head offers."""

from abc import ABC, abstractmethod

import torch
from ase.data import chemical_symbols
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch_geometric.data import Data

from pygschnet.elements import MAX_Z
from pygschnet.errors import InputError
from pygschnet.nn.exact import ExactBuffers


class Head(ExactBuffers, ABC):
    """Turns features of atoms into a property of every molecule, and what each atom contributes to it.

    Casting the model does not round the buffers of a head, such as energies of isolated atoms.

    Attributes:
        features: length of the feature vectors.
        elements: those that the training data held, by atomic number.
    """

    features: int
    elements: Bool[Tensor, "elements"]

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("elements", torch.zeros(MAX_Z + 1, dtype=torch.bool))

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "atoms features"], data: Data
    ) -> tuple[Float[Tensor, "molecules *components"], Float[Tensor, "atoms"]]:
        """The property of the molecules, and the share or value of their atoms, both in float64.

        Args:
            x: features of the atoms.
            data: the molecules; see `graph` for its fields.
        """

    @abstractmethod
    def label(self, values: Float[Tensor, "molecules *given"]) -> Float[Tensor, "molecules *components"]:
        """What `forward` should give where the data say `values`.

        Raises:
            InputError: for labels that this head cannot learn.
        """

    def fit(
        self,
        z: Int[Tensor, "atoms"],
        batch: Int[Tensor, "atoms"],
        label: Float[Tensor, "molecules *components"],
    ) -> None:
        """Take from training data what is not learnt by descent: here the known elements only.

        Args:
            z: atomic numbers of all training molecules.
            batch: the molecule of each atom.
            label: of the molecules.
        """
        self.elements[:] = False
        self.elements[z.unique().to(self.elements.device)] = True

    @property
    def fitted(self) -> bool:
        """Whether `fit` has seen training data."""
        return bool(self.elements.any())

    def check_elements(self, z: Int[Tensor, "atoms"]) -> None:
        """Refuse elements that the training data did not hold, if any was seen.

        Raises:
            InputError: naming the element and those known.
        """
        if self.fitted and len(unknown := z[~self.elements.to(z.device)[z]]):
            known = ", ".join(chemical_symbols[number] for number in self.elements.nonzero().flatten().tolist())
            raise InputError(f"this model has not been trained on {chemical_symbols[unknown[0]]}, only on {known}")


def per_molecule(
    atomic: Float[Tensor, "atoms *components"], batch: Int[Tensor, "atoms"], molecules: int
) -> Float[Tensor, "molecules *components"]:
    """Sums over the atoms of each molecule.

    Args:
        atomic: values of the atoms.
        batch: the molecule of each atom.
        molecules: how many there are.
    """
    return atomic.new_zeros(molecules, *atomic.shape[1:]).index_add(0, batch, atomic)
