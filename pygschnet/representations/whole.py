"""SchNet as a whole, output network included, without autograd: in evaluation one call, in training one operator."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from pygschnet.graph import edge_distances, edge_offsets, edge_vectors, one_of_each_pair
from pygschnet.kernels import cpu, make_pairs, molecule
from pygschnet.kernels.activation import in_transform
from pygschnet.kernels.training import Block, Geometry, Network, outputs_and_slopes
from pygschnet.nn import CFConv, InteractionBlock
from pygschnet.nn.table import tabulate_once
from pygschnet.representations.watch import Watch

if TYPE_CHECKING:
    from pygschnet.representations.schnet import SchNet

KERNELS = ("none", "hard", "cosine")
"""Cutoff functions that the compiled kernels know."""


def outputs(schnet: "SchNet", data: Data, network: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor] | None:
    """`Representation.outputs` of SchNet in evaluation."""
    if schnet.training or not _suits(schnet, data, network) or data.edge_index.shape[1] > molecule.EDGES:
        return None
    knots = schnet.knots(edge_distances(data) if schnet.cutoff is None else data.pos)
    tables, kept, watch = schnet.tables(knots, constant=True), schnet._kept, schnet._watch
    if tables is None or kept is None or kept.packed is None or watch is None or any(watch.hooks):
        return None
    spacing = molecule.Spacing(knots.first, knots.spacing, schnet.end, schnet.cutoff_form == "cosine")
    graph = (data.z, data.pos, data.edge_index, *edge_offsets(data))
    return molecule.outputs(*graph, schnet.embedding.weight, kept.packed, tables, spacing, network)


def trained(schnet: "SchNet", data: Data, network: Sequence[Tensor]) -> tuple[Tensor, Tensor] | None:
    """`Representation.trained` of SchNet."""
    if not schnet.training or not _suits(schnet, data, network):
        return None
    if schnet._watch is None or schnet._watch.outdated():
        schnet._watch = Watch(schnet)
    if any(schnet._watch.hooks) or not plain(schnet.blocks):
        return None
    half = one_of_each_pair(data)
    x, vectors = schnet.embedding(data.z), edge_vectors(half)
    distances = torch.linalg.vector_norm(vectors, dim=-1)
    knots = schnet.knots(distances)
    networks: list[Any] = list(schnet.filter_networks)
    tables = tabulate_once(networks, schnet.basis, knots)
    scales = torch.tensor([knots.spacing, schnet.end], dtype=torch.float64)
    cosine = schnet.cutoff_form == "cosine"
    weights, slopes, interval = cpu.splines(distances, scales, knots.first, tables.shape[1], cosine, x.dtype)
    pairs = make_pairs(half.edge_index[1], half.edge_index[0], interval, len(x), tables.shape[1])
    geometry = Geometry(pairs, weights, slopes, half.edge_index, vectors / distances.unsqueeze(1))
    blocks: list[Any] = list(schnet.blocks)
    layers = [(block.in2f, block.f2out, block.dense) for block in blocks]
    return outputs_and_slopes(
        x,
        tables,
        geometry,
        [Block(inner.weight, outer.weight, outer.bias, last.weight, last.bias) for inner, outer, last in layers],
        Network(*network),
    )


def pack(blocks: nn.ModuleList) -> molecule.Packed | None:
    """The dense layers for `molecule.outputs`, unless somebody has changed them."""
    if not plain(blocks):
        return None
    layers: list[Any] = list(blocks)
    return molecule.pack(
        [block.in2f.weight for block in layers],
        [block.f2out.weight for block in layers],
        [block.dense.weight for block in layers],
        [torch.cat([block.f2out.bias, block.dense.bias]).detach() for block in layers],
    )


def plain(blocks: nn.ModuleList) -> bool:
    """Whether these are the interaction blocks of the paper, with nothing changed."""
    layers = [nn.Linear, CFConv, nn.Linear, nn.Linear]
    return all(
        type(block) is InteractionBlock and [type(part) for part in block.children()] == layers for block in blocks
    )


def _suits(schnet: "SchNet", data: Data, network: Sequence[Tensor]) -> bool:
    """Whether graph, weights and circumstances are those that the kernels are made for."""
    fields, embedding = data.to_dict(), schnet.embedding.weight
    pos = fields["pos"]
    return (
        "edge_cutoff" in fields
        and fields["edge_index"].shape[1] > 0
        and schnet.cutoff_form in KERNELS
        and not in_transform(pos)
        and pos.shape[1] == 3
        and molecule.takes(embedding, network)
        and cpu.library(embedding.dtype) is not None
        and all(fields[name].device == embedding.device for name in ("z", "pos", "edge_index"))
        and not torch.is_autocast_enabled("cpu")
        and schnet.tabulates()
    )
