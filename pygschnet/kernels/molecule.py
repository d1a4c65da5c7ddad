"""SchNet, its output network, forces and virial in one call."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pygschnet.elements import MAX_Z
from pygschnet.kernels import cpu
from pygschnet.kernels.spline import TAPS

EDGES = 100_000
"""Up to so many; with 365,000 of them one call took a tenth longer than many."""


class Packed(NamedTuple):
    """The dense layers of all blocks, laid out for `molecule.c`.

    Attributes:
        forward: of W_in, W_f and W_d of all blocks.
        backward: the same, transposed, the last block first.
        biases: b_f and b_d.
    """

    forward: list[Tensor]
    backward: list[Tensor]
    biases: Tensor


class Spacing(NamedTuple):
    """Of the filters' table, and how the filters end.

    Attributes:
        first: which multiple of the spacing the first knot is.
        spacing: in Å.
        cutoff: radius in Å; infinite if there is none.
        cosine: whether the cutoff function is the cosine.
    """

    first: int
    spacing: float
    cutoff: float
    cosine: bool


def pack(
    in2f: Sequence[Tensor], f2out: Sequence[Tensor], dense: Sequence[Tensor], biases: Sequence[Tensor]
) -> Packed | None:
    """Lay out weights; None for numbers of features or filters, or a precision, that the kernel does not take."""
    width = 2 * cpu.REALS.get(in2f[0].dtype, ("", 1))[1]
    if cpu.library(in2f[0].dtype) is None or any(size % width for size in in2f[0].shape):
        return None
    layers = (in2f, f2out, dense)
    return Packed(
        [torch.stack([_panels(weight.t(), width) for weight in layer]) for layer in layers],
        [torch.stack([_panels(weight, width) for weight in reversed(layer)]) for layer in layers],
        torch.stack(list(biases)),
    )


def _panels(matrix: Tensor, width: int) -> Tensor:
    return matrix.detach().unflatten(1, (-1, width)).transpose(0, 1).contiguous()


def takes(embedding: Tensor, network: Sequence[Tensor]) -> bool:
    """Whether these weights are where and what `outputs` takes them for; it reads memory without asking."""
    (first, bias, second, constant), features = network, embedding.shape[1]
    sizes = (
        len(embedding) > MAX_Z,
        first.shape == (len(bias), features),
        second.shape == (1, len(bias)),
        len(constant) == 1,
    )
    kind = (embedding.device, embedding.dtype)
    return kind[0].type == "cpu" and all(sizes) and all((part.device, part.dtype) == kind for part in network)


def outputs(
    z: Int[Tensor, "atoms"],
    pos: Float[Tensor, "atoms 3"],
    edge_index: Int[Tensor, "2 edges"],
    edge_shift: Int[Tensor, "shifted 3"],
    offsets: Float[Tensor, "shifted 3"],
    embedding: Float[Tensor, "elements features"],
    packed: Packed,
    tables: Float[Tensor, "blocks coefficients filters"],
    spacing: Spacing,
    network: Sequence[Tensor],
) -> tuple[Float[Tensor, "atoms"], Float[Tensor, "atoms 3"], Float[Tensor, "3 3"]] | None:
    """The output of every atom and the derivatives of their sum by positions and by strain, without autograd.

    Args:
        z: atomic numbers.
        pos: in Å.
        edge_index: with the reverse of every edge.
        edge_shift: lattice vectors added to the source's position; empty without cells.
        offsets: the same in Å.
        embedding: of the elements.
        packed: the dense layers of the interaction blocks.
        tables: of the filters.
        spacing: of the tables.
        network: weights and biases of the output network: A, b, w and c of w·ssp(A x + b) + c.

    Returns:
        None if an edge has an atom that does not exist.
    """
    (blocks, coefficients, filters), (hidden, features) = tables.shape, network[0].shape
    atoms, edges = len(z), edge_index.shape[1]
    exact, offsets = pos.detach().double().contiguous(), offsets.double().contiguous()
    graph = (*(part.long().contiguous() for part in (z, edge_index, edge_shift)), offsets)
    scales = torch.tensor((spacing.spacing, spacing.cutoff), dtype=torch.float64)
    output, gradient, virial = embedding.new_empty(atoms), torch.empty_like(exact), exact.new_empty(3, 3)
    widest = max(features, filters, hidden)
    reals = 4 * TAPS * edges + atoms * (features + blocks * (features + filters) + 2 * widest + hidden)
    room = torch.empty(44 * edges + embedding.element_size() * reals + 64 * 16, dtype=torch.uint8)
    network = [part.contiguous() for part in network]
    weights = (embedding.contiguous(), *packed.forward, *packed.backward, packed.biases, tables, *network)
    sizes = (blocks, atoms, features, filters, hidden, edges, coefficients, spacing.first, int(spacing.cosine))
    arrays = (*weights, scales, exact, *graph, output, gradient, virial, room)
    failed = cpu.call("molecule", arrays, *sizes, cpu.threads_for(TAPS * edges * filters))
    return None if failed else (output, gradient.to(pos.dtype), virial.to(pos.dtype))
