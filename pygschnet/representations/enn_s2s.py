"""The message-passing half of enn-s2s: an edge network makes matrices, a GRU takes the messages."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import NNConv

from pygschnet.bonds import BOND_TYPES, bond_types
from pygschnet.elements import distinct_numbers_of
from pygschnet.errors import InputError
from pygschnet.graph import edge_distances, unique_pairs
from pygschnet.nn import Cutoff, GaussianBasis, perceptron
from pygschnet.nn.cutoff import Form
from pygschnet.nn.symmetry import neighbour_table
from pygschnet.representations.base import Representation


class EdgeConv(NNConv):
    """PyG's NNConv, m_i = Σ_j A(e_ij) h_j + b, and a way to the same messages that never holds the matrices A.

    The edge network ends with a linear layer on its hidden features φ: A(e) = Σ_k φ_k(e) B_k, where φ_0 = 1 stands for
    the bias. Therefore m_i = b + Σ_k B_k s_ik with s_ik = Σ_j φ_k(e_ij) h_j: the sum over neighbours comes first, and
    takes atoms × hidden × width numbers; the matrices would take edges × width², in every pass.

    Args:
        width: of the states h.
        network: from edge attributes to width² numbers, ending with a linear layer.

    Source: arXiv:1704.01212, section 5 ("edge network").
    """

    def __init__(self, width: int, network: nn.Sequential):
        super().__init__(width, width, network, aggr="add", root_weight=False)

    def hidden(self, e: Float[Tensor, "edges attributes"]) -> Float[Tensor, "edges hidden"]:
        """φ(e), its first column 1."""
        return F.pad(self.nn[:-1](e), (1, 0), value=1.0)

    def matrices(self) -> Float[Tensor, "hidden_width width"]:
        """The B_k below each other, to multiply the sums s_i from the right."""
        last = self.nn[-1]
        table = torch.cat([last.bias.unsqueeze(1), last.weight], dim=1)
        return table.view(self.in_channels, self.out_channels, -1).permute(2, 0, 1).flatten(0, 1)

    def messages(
        self,
        h: Float[Tensor, "atoms neighbours width"],
        hidden: Float[Tensor, "atoms hidden neighbours"],
        matrices: Float[Tensor, "hidden_width width"],
    ) -> Float[Tensor, "atoms width"]:
        """m_i of every atom.

        Args:
            h: states of the neighbours of each atom.
            hidden: φ of the edges to them, 0 where an atom has fewer.
            matrices: from `matrices`.
        """
        return torch.addmm(self.bias, torch.bmm(hidden, h).flatten(1), matrices)


class EnnS2S(Representation):
    """enn-s2s up to its read-out: h⁰ = x padded with zeros, h ← GRU(Σ_j A(e_ij) h_j + b, h), T times; gives [h, x].

    x_i is the one-hot element, and Z divided by that of the heaviest element. e_ij is the distance in Å, or its
    expansion in Gaussians; with bond types it is preceded by the one-hot bond (single, double, triple, aromatic; all
    zero without a bond), which makes the paper's five numbers. A is a dense network shared by all passes. The paper's
    other inputs (partial charges, hybridisation, rings) are left out: explicit hydrogens and distances carry them.

    The paper's `Set2SetReadout` belongs to it, but it goes with any head for `features` = width + elements + 1.

    Bond types make energies jump where a bond is perceived differently: they are for equilibrium geometries, not for
    forces. Force training also wants a smooth activation. The candidate of PyTorch's GRU is tanh(W m + r ∘ (U h)), that
    of the paper's code tanh(W m + U (r ∘ h)).

    Args:
        width: d of the states h.
        interactions: number T of passes, which share their weights.
        elements: symbols of the elements that it knows.
        edge_layers: hidden layers of the edge network.
        edge_hidden: their width.
        edge_networks: 1, or 2 as published: one for incoming and one for outgoing edges, their messages side by side.
            In a molecule both see the same edges.
        activation: of the edge network, "ssp", "silu" or, as published, "relu".
        gaussians: number of Gaussians in which distances are expanded; 0 for the distance itself.
        gaussian_stop: centre of the last, in Å; the first is at 0.
        bond_types: whether edges know their bond; from the field `edge_type`, else perceived by RDKit.
        cutoff: radius in Å of the neighbourhood; null for all pairs, as published.
        cutoff_form: of the function that multiplies A: "none", "hard", "cosine", "polynomial" or "mollifier".

    Raises:
        InputError: for unknown or repeated elements, or more of them than the width can hold.

    Source: arXiv:1704.01212, sections 5 and 6, and the code released with it.
    """

    numbers: Int[Tensor, "elements"]

    def __init__(
        self,
        width: int = 50,
        interactions: int = 6,
        elements: Sequence[str] = ("H", "C", "N", "O", "F"),
        edge_layers: int = 4,
        edge_hidden: int = 50,
        edge_networks: Literal[1, 2] = 1,
        activation: Literal["ssp", "silu", "relu"] = "ssp",
        gaussians: int = 0,
        gaussian_stop: float = 5.0,
        bond_types: bool = False,
        cutoff: float | None = None,
        cutoff_form: Form = "none",
    ):
        super().__init__()
        numbers = torch.tensor(distinct_numbers_of(elements))
        if not 0 < len(elements) < width:
            raise InputError(
                f"width = {width} has room for {width - 1} different elements, got {', '.join(elements) or 'none'}"
            )
        self.features = width + len(elements) + 1
        self.width, self.interactions, self.elements = width, interactions, list(elements)
        self.edge_layers, self.edge_hidden, self.edge_networks = edge_layers, edge_hidden, edge_networks
        self.activation, self.gaussians, self.gaussian_stop = activation, gaussians, gaussian_stop
        self.bond_types, self.cutoff, self.cutoff_form = bond_types, cutoff, cutoff_form

        self.register_buffer("numbers", numbers, persistent=False)
        self.basis = GaussianBasis(0.0, gaussian_stop, gaussians) if gaussians else None
        self.envelope = Cutoff(cutoff, cutoff_form)
        attributes = (gaussians or 1) + bond_types * (len(BOND_TYPES) - 1)
        widths = [attributes] + [edge_hidden] * edge_layers + [width**2]
        self.convolutions = nn.ModuleList(EdgeConv(width, perceptron(widths, activation)) for _ in range(edge_networks))
        self.update = nn.GRUCell(edge_networks * width, width, bias=False)
        for layer in self.modules():  # as in the released code; NNConv has initialised its network otherwise
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, data: Data) -> Float[Tensor, "atoms features"]:
        x = self.inputs(data.z)
        h = F.pad(x, (0, self.width - x.shape[1]))
        neighbours, hidden = self._neighbourhoods(data)
        matrices = [convolution.matrices() for convolution in self.convolutions]
        for _ in range(self.interactions):
            around = h.index_select(0, neighbours.flatten()).view(*neighbours.shape, self.width)
            messages = [
                convolution.messages(around, *parts)
                for convolution, *parts in zip(self.convolutions, hidden, matrices, strict=True)
            ]
            h = self.update(torch.cat(messages, dim=-1), h)
        return torch.cat([h, x], dim=-1)

    def inputs(self, z: Int[Tensor, "atoms"]) -> Float[Tensor, "atoms inputs"]:
        """x: the one-hot element and Z in units of the heaviest.

        Raises:
            InputError: for other elements.
        """
        one_hot = z.unsqueeze(-1) == self.numbers
        if not z.is_cuda and not one_hot.any(-1).all():  # reading from the GPU would wait for it
            wrong = int(z[~one_hot.any(-1)][0])
            raise InputError(f"atomic number {wrong} is not among the elements {', '.join(self.elements)} of the model")
        share = (z.double() / self.numbers.max()).unsqueeze(-1)
        return torch.cat([one_hot, share], dim=-1).to(self.update.weight_hh.dtype)

    def attributes(
        self, distances: Float[Tensor, "edges"], bonds: Int[Tensor, "edges"] | None = None
    ) -> Float[Tensor, "edges attributes"]:
        """e of every edge.

        Args:
            distances: in Å.
            bonds: see `bonds.bond_types`; None for a model without bond types.
        """
        e = distances.unsqueeze(-1) if self.basis is None else self.basis(distances)
        if bonds is None:
            return e
        return torch.cat([F.one_hot(bonds, len(BOND_TYPES))[:, 1:].to(e), e], dim=-1)

    def _neighbourhoods(self, data: Data) -> tuple[Tensor, list[Tensor]]:
        """The neighbours of each atom, and φ of the edges to them for every edge network, filled up with zeros."""
        if self.bond_types:
            pairs, distances, both_ways, bonds = data.edge_index, edge_distances(data), False, bond_types(data)
        else:
            (pairs, distances, both_ways), bonds = unique_pairs(data), None
        distances = distances.to(self.update.weight_hh.dtype)
        e, envelope = self.attributes(distances, bonds), self.envelope(distances).unsqueeze(-1)
        edges = torch.arange(len(distances), device=distances.device)
        if both_ways:
            pairs, edges = torch.cat([pairs, pairs.flip(0)], dim=1), edges.repeat(2)
        table = neighbour_table(pairs[1], len(data.z))
        neighbours = F.pad(pairs[0], (0, 1))[table]
        edges = F.pad(edges, (0, 1), value=len(distances))[table]
        hidden = []
        for convolution in self.convolutions:
            phi = convolution.hidden(e) if self.cutoff_form == "none" else convolution.hidden(e) * envelope
            hidden.append(F.pad(phi, (0, 0, 0, 1))[edges].mT)  # its last row is that of nobody
        return neighbours, hidden
