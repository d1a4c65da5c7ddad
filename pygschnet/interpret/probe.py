"""The local chemical potential: the energy that a model gives to a probe atom anywhere in or around a molecule.

The molecule acts on the probe, the probe does not act on the molecule, and probes do not see each other: there are
edges from atoms to probes only.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from ase import Atoms
from ase.geometry import complete_cell
from jaxtyping import Float, Int
from torch import Tensor
from torch_geometric.data import Data

from pygschnet.elements import numbers_of
from pygschnet.errors import InputError
from pygschnet.graph import molecule_index, unique_pairs
from pygschnet.interpret.molecule import graph_of
from pygschnet.model import AtomisticModel
from pygschnet.nn import InteractionBlock, shifted_softplus
from pygschnet.representations import Representation, SchNet

AT_ONCE = 65_536
"""Pairs of a point and an image of an atom that are looked at together: the memory is bounded by this."""


@torch.no_grad()
def local_chemical_potential(
    model: AtomisticModel,
    molecule: Atoms | Data,
    points: Float[np.ndarray, "*points 3"],
    elements: Sequence[str] = ("H", "C", "N", "O"),
) -> Float[np.ndarray, "elements *points"]:
    """Ω_A(r) = σ·net(x_A(r)) + μ: the atomic energy, in eV, of a probe atom of element A at r, without e0(A).

    x_A(r) = a_A + Σ_t W_d ssp(W_f Σ_i h_i ∘ W(‖r − r_i‖) + b_f) + b_d, where h_i = W_in x_i are the features of the
    undisturbed molecule before block t. Beyond the cutoff from all atoms it is the value of an isolated atom. On top of
    an atom it is finite: what the model makes of the distance 0, which no training data hold. If the model has learnt
    another property than the energy, Ω is the probe's share of that, in its unit.

    Args:
        model: any whose energy is a sum over atoms.
        molecule: a molecule, or a periodic system, of which a point sees all images of atoms within the cutoff.
        points: where the probe stands, in Å.
        elements: what it is, one after the other.

    Raises:
        InputError: for a model whose energy is no sum over atoms, elements unknown to the model, points that are not
            finite, or structures that the model cannot take.

    Source: K. T. Schütt et al., arXiv:1609.08259.
    """
    head, data = model.head, graph_of(model, molecule)
    if head.aggregation != "sum":
        raise InputError('a probe has an energy only if the energy is a sum over atoms: a head with aggregation "sum"')
    if molecule_index(data)[1] != 1:
        raise InputError(f"one molecule at a time, got a batch of {molecule_index(data)[1]}")
    z, places = _atomic_numbers(model, elements).to(data.z.device), _places(points).to(data.z.device)
    shared = _shared(model.representation, data)
    energies = []
    for place in places.split(_at_once(data, model.cutoff)):
        x = _features(model, data, z, place) if shared is None else shared(z, place)
        probes = z.repeat_interleave(len(place))
        _, energy = head(x.flatten(0, 1), Data(z=probes))
        energies.append((energy - head.reference_energies[probes]).unflatten(0, (len(z), len(place))))
    return torch.cat(energies, dim=1).cpu().numpy().reshape(len(z), *points.shape[:-1])


def with_probes(data: Data, z: Int[Tensor, "probes"], points: Float[Tensor, "probes 3"], cutoff: float | None) -> Data:
    """The graph of a molecule with probe atoms that feel the molecule and are not felt, for any representation.

    Differentiable in the positions of both; the last atoms are the probes.

    Args:
        data: the molecule, with its edges.
        z: the elements of the probes.
        points: where they stand, in Å.
        cutoff: radius in Å within which they feel atoms; None for all.
    """
    index, shift, _ = _neighbours(data, points.detach(), cutoff)
    joint = Data(
        z=torch.cat([data.z, z]),
        pos=torch.cat([data.pos, points.to(data.pos)]),
        edge_index=torch.cat([data.edge_index, index], dim=1),
    )  # without `edge_cutoff`, which would promise that all edges have their reverse
    if "cell" in data:
        joint.cell, joint.pbc = data.cell, data.pbc
        joint.edge_shift = torch.cat([data.edge_shift, shift.to(data.edge_shift)])
    return joint


def _features(model: AtomisticModel, data: Data, z: Tensor, points: Tensor) -> Tensor:
    """x of probes of all elements at all points, from any representation."""
    probes = [with_probes(data, one.expand(len(points)), points, model.cutoff) for one in z]
    return torch.stack([model.representation(joint)[len(data.z) :] for joint in probes])


def _shared(schnet: Representation, data: Data) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The same from SchNet, where elements share the sums over the molecule; None for other representations."""
    if not isinstance(schnet, SchNet) or type(schnet).forward is not SchNet.forward:
        return None
    if any(type(block) is not InteractionBlock for block in schnet.blocks):
        return None
    h = list(_messages(schnet, data))

    def features(z: Tensor, points: Tensor) -> Tensor:
        pairs, _, distances = _neighbours(data, points, schnet.cutoff)
        rows = h[0].new_zeros(len(points), schnet.filters)  # for what probes receive; what they send is dropped below
        filters = schnet.filters_of(pairs, distances, len(data.z) + len(points), both_ways=True)
        v = h[0].new_zeros(len(points), schnet.features)
        for block, h_t, filters_t in zip(schnet.blocks, h, filters, strict=True):
            c = block.cfconv(torch.cat([h_t, rows]), pairs, filters_t)[len(h_t) :]
            v = v + block.dense(shifted_softplus(block.f2out(c)))
        return schnet.embedding(z).unsqueeze(1) + v

    return features


def _messages(schnet: SchNet, data: Data) -> Iterator[Tensor]:
    """h = W_in x of the molecule, for every interaction block."""
    pairs, distances, both_ways = unique_pairs(data)
    x = schnet.embedding(data.z)
    filters = schnet.filters_of(pairs, distances, len(x), both_ways)
    for block, filters_t in zip(schnet.blocks, filters, strict=True):
        yield block.in2f(x)
        x = x + block(x, pairs, filters_t, both_ways)


def _neighbours(data: Data, points: Tensor, cutoff: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Edges from atoms to probes, which are numbered after them, sorted by probe; lattice shifts; distances in Å."""
    cell, periodic, shifts = _images(data, cutoff)
    apart = data.pos.detach().double() - points.double().unsqueeze(1)
    nearest = -(apart @ cell.inverse()).round() * periodic  # leaves half a lattice vector along each
    shift = nearest.unsqueeze(2) + shifts
    distances = torch.linalg.vector_norm(apart.unsqueeze(2) + shift @ cell, dim=-1)
    within = distances < (math.inf if cutoff is None else cutoff)
    probe, atom, _ = within.nonzero(as_tuple=True)
    return torch.stack([atom, probe + len(data.z)]), shift[within], distances[within]


def _images(data: Data, cutoff: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """The cell; which of its vectors are periods; and the shifts that reach all images from the nearest ones."""
    device, exact = data.pos.device, torch.float64
    if "cell" not in data:
        return torch.eye(3, dtype=exact, device=device), data.pos.new_zeros(3), data.pos.new_zeros(1, 3, dtype=exact)
    if cutoff is None:
        raise InputError("a periodic system acts on a point from everywhere: this needs a model with a cutoff")
    pbc = data.pbc[0].cpu().numpy()
    cell = complete_cell(np.where(pbc[:, None], data.cell[0].detach().cpu().double().numpy(), 0.0))
    planes = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)  # distances between them, in Å
    reach = np.floor(cutoff / planes + 0.5) * pbc
    shifts = torch.cartesian_prod(*[torch.arange(-n, n + 1, dtype=exact) for n in reach])
    return torch.from_numpy(cell).to(device), torch.from_numpy(pbc).to(device), shifts.to(device)


def _at_once(data: Data, cutoff: float | None) -> int:
    """How many points."""
    return max(1, AT_ONCE // (len(data.z) * len(_images(data, cutoff)[2])))


def _atomic_numbers(model: AtomisticModel, elements: Sequence[str]) -> Int[Tensor, "elements"]:
    z = torch.tensor(numbers_of(elements), dtype=torch.long)
    model.head.check_elements(z)
    return z


def _places(points: np.ndarray) -> Tensor:
    if points.shape[-1:] != (3,):
        raise InputError(f"points, in Å, have three coordinates; got an array of shape {list(points.shape)}")
    if not np.isfinite(points).all():
        raise InputError(f"{(~np.isfinite(points)).any(-1).sum()} of the points, in Å, are not finite")
    return torch.from_numpy(np.array(points, np.float64).reshape(-1, 3))
