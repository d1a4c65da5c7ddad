"""The read-out of enn-s2s: an energy of the molecule as a whole, by attention to its atoms."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.nn import Set2Set

from pygschnet.graph import molecule_index
from pygschnet.heads.energy import EnergyHead, References
from pygschnet.nn import ACTIVATIONS, dense


class Set2SetReadout(EnergyHead):
    """Energy of a molecule, not of its atoms: E = σ·net(set2set({W x_i})) + μ + Σ_i e0(Z_i).

    Set2set asks its question M times: an LSTM makes a query q from the last one and its answer r, the answer to q is
    r = Σ_i a_i W x_i with a = softmax_i(q · W x_i), and [q, r] goes to a network with one hidden layer. Its output
    does not grow with the molecule, so σ and μ are those of whole molecules: for data with molecules of many sizes give
    references, or sizes will have to be learnt.

    Each atom gets an equal share of its molecule's energy, and e0 of its own element on top. That the shares add up is
    all there is to them: they mean nothing chemical.

    This is PyG's `Set2Set`. The paper's code scores by vᵀ tanh(U q + W x_i) (or, with as good results, by the product
    with U q), has an LSTM without input whose memory is [q, r], and applies tanh to the sigmoid of its candidate.

    Args:
        features: length of the feature vectors.
        steps: number M of queries.
        hidden: width of the hidden layer.
        activation: of the hidden layer, "ssp", "silu" or, as published, "relu".
        scale: σ in eV; if null the standard deviation of the training energies, less references.
        shift: μ in eV; if null the mean of the training energies, less references.
        references: energies of the isolated atoms in eV by element, such as {"H": -13.6}, zero where not given; "data"
            for those that come with the data; "least_squares" for those that fit the training energies best.

    Source: arXiv:1704.01212, section 5, and the code released with it; arXiv:1511.06391 for set2set.
    """

    def __init__(
        self,
        features: int = 56,
        steps: int = 12,
        hidden: int = 200,
        activation: Literal["ssp", "silu", "relu"] = "ssp",
        scale: float | None = None,
        shift: float | None = None,
        references: References | None = None,
    ):
        super().__init__("mean", scale, shift, references)
        self.features, self.steps, self.hidden, self.activation = features, steps, hidden, activation
        self.embedding = dense(features, features, bias=False)
        self.set2set = Set2Set(features, steps)
        self.dense_1 = dense(2 * features, hidden)
        self.dense_2 = dense(hidden, 1)

    def forward(
        self, x: Float[Tensor, "atoms features"], data: Data
    ) -> tuple[Float[Tensor, "molecules"], Float[Tensor, "atoms"]]:
        """Energies of the molecules and of their atoms, in eV, float64; the second add up to the first."""
        batch, molecules = molecule_index(data)
        with torch.backends.cudnn.flags(enabled=False):  # whose LSTM cannot be differentiated twice
            answers = self.set2set(self.embedding(x), batch, dim_size=molecules)
        output = self.dense_2(ACTIVATIONS[self.activation](self.dense_1(answers))).squeeze(-1)
        return self.energies(output[batch], data.z, batch, molecules)

    def references_of(
        self, z: Int[Tensor, "atoms"], batch: Int[Tensor, "atoms"], molecules: int
    ) -> Float[Tensor, "atoms"]:
        """e0 of every atom, in full: the references add up, whatever the network's output does."""
        return self.reference_energies[z]
