"""A network for each element, as in Behler–Parrinello networks."""

from collections.abc import Sequence
from typing import Literal

import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch_geometric.data import Data

from pygschnet.elements import MAX_Z, distinct_numbers_of
from pygschnet.errors import InputError
from pygschnet.graph import molecule_index
from pygschnet.heads.energy import EnergyHead, References
from pygschnet.nn import perceptron


class Elemental(EnergyHead):
    """Energy as a sum over atoms: E = Σ_i σ·net_{Z_i}(x_i) + μ + e0(Z_i), with a network for each element.

    Every network is evaluated on the atoms of its element only. All of them take part in every step, with a gradient of
    zero where a batch has no such atoms, as parallel training wants it.

    Args:
        features: length of the feature vectors.
        symbols: of the elements.
        hidden: widths of the hidden layers.
        activation: of the hidden layers, "ssp" or "silu".
        aggregation: "sum", or "mean" for a property that does not grow with the molecule.
        scale: σ in eV, what one unit of network output stands for; if null the standard deviation of the training
            energies (per atom for a sum).
        shift: μ in eV; if null the mean of the training energies (per atom for a sum).
        references: energies of the isolated atoms in eV by element, such as {"H": -13.6}, zero where not given; "data"
            for those that come with the data; "least_squares" for those that fit the training energies best.

    Raises:
        InputError: for unknown elements, an element that is listed twice, or none.

    Source: Behler and Parrinello, Phys. Rev. Lett. 98, 146401 (2007); SchNetPack 1.0 for the widths.
    """

    places: Int[Tensor, "elements"]

    def __init__(
        self,
        features: int = 32,
        symbols: Sequence[str] = ("H", "C", "N", "O", "F"),
        hidden: Sequence[int] = (50, 50),
        activation: Literal["ssp", "silu"] = "ssp",
        aggregation: Literal["sum", "mean"] = "sum",
        scale: float | None = None,
        shift: float | None = None,
        references: References | None = None,
    ):
        super().__init__(aggregation, scale, shift, references)
        if not symbols:
            raise InputError("elemental networks need the symbols of some elements, got none")
        numbers = torch.tensor(distinct_numbers_of(symbols))
        self.features, self.symbols, self.hidden, self.activation = features, list(symbols), list(hidden), activation
        widths = [features, *hidden, 1]
        self.networks = nn.ModuleDict({symbol: perceptron(widths, activation) for symbol in symbols})
        places = torch.full((MAX_Z + 1,), -1).index_copy(0, numbers, torch.arange(len(numbers)))
        self.register_buffer("places", places, persistent=False)

    def forward(
        self, x: Float[Tensor, "atoms features"], data: Data
    ) -> tuple[Float[Tensor, "molecules"], Float[Tensor, "atoms"]]:
        """Energies of the molecules and of their atoms, in eV, float64; the second add up to the first.

        Raises:
            InputError: for elements without a network.
        """
        place = self.places[data.z]
        if (place < 0).any():
            symbols = sorted({chemical_symbols[number] for number in data.z[place < 0].tolist()})
            raise InputError(f"there are networks for {', '.join(self.symbols)}, not for {', '.join(symbols)}")
        order = torch.argsort(place)
        atoms = x.index_select(0, order).split(torch.bincount(place, minlength=len(self.symbols)).tolist())
        outputs = [network(part) for network, part in zip(self.networks.values(), atoms, strict=True)]
        output = torch.cat(outputs).squeeze(-1).index_select(0, torch.argsort(order))
        return self.energies(output, data.z, *molecule_index(data))
