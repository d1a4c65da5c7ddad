"""Weights that need no file: the same numbers for the same name and shape, on any machine and in any library."""

import zlib

import numpy as np
import torch
from torch import Tensor, nn


def pattern(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers between −a and a, a = 1.4/√(columns), that depend on the name and the shape only."""
    phase = zlib.crc32(name.encode()) % 1000
    numbers = np.sin(phase + 1.7 * np.arange(np.prod(shape)) ** 1.1)
    return torch.from_numpy(1.4 * numbers.reshape(shape) / np.sqrt(shape[-1]))


def fill(module: nn.Module, names: dict[str, str] | None = None) -> None:
    """Give every parameter its pattern, under the name it has or under the one in `names`."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(pattern(names[name] if names else name, tuple(parameter.shape)))


def schnetpack_names(interactions: int) -> dict[str, str]:
    """SchNetPack's names of the parameters of a SchNet with an atomwise output, and ours."""
    names = {
        "representation.embedding.weight": "representation.embedding.weight",
        "output_modules.0.outnet.0.weight": "head.dense_1.weight",
        "output_modules.0.outnet.0.bias": "head.dense_1.bias",
        "output_modules.0.outnet.1.weight": "head.dense_2.weight",
        "output_modules.0.outnet.1.bias": "head.dense_2.bias",
    }
    for t in range(interactions):
        theirs, block = f"representation.interactions.{t}", f"representation.blocks.{t}"
        names[f"{theirs}.in2f.weight"] = f"{block}.in2f.weight"
        for kind in ("weight", "bias"):
            names[f"{theirs}.f2out.0.{kind}"] = f"{block}.f2out.{kind}"
            names[f"{theirs}.f2out.1.{kind}"] = f"{block}.dense.{kind}"
            for layer in (0, 1):
                names[f"{theirs}.filter_network.{layer}.{kind}"] = (
                    f"representation.filter_networks.{t}.dense_{layer + 1}.{kind}"
                )
    return names


def pyg_names(interactions: int) -> dict[str, str]:
    """PyG's names of the parameters of its SchNet, and ours."""
    names = {"embedding.weight": "representation.embedding.weight"}
    for kind in ("weight", "bias"):
        names[f"lin1.{kind}"] = f"head.dense_1.{kind}"
        names[f"lin2.{kind}"] = f"head.dense_2.{kind}"
    for t in range(interactions):
        theirs, block = f"interactions.{t}", f"representation.blocks.{t}"
        names[f"{theirs}.conv.lin1.weight"] = f"{block}.in2f.weight"
        for kind in ("weight", "bias"):
            names[f"{theirs}.conv.lin2.{kind}"] = f"{block}.f2out.{kind}"
            names[f"{theirs}.lin.{kind}"] = f"{block}.dense.{kind}"
            for theirs_filter in (f"{theirs}.mlp", f"{theirs}.conv.nn"):  # one module under two names
                for layer, ours in ((0, 1), (2, 2)):
                    names[f"{theirs_filter}.{layer}.{kind}"] = f"representation.filter_networks.{t}.dense_{ours}.{kind}"
    return names
