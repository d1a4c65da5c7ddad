"""Shifted softplus, the activation function of SchNet, others, and dense layers."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pygschnet.kernels import shifted_softplus

__all__ = ["ACTIVATIONS", "Activation", "dense", "perceptron", "shifted_softplus"]


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "ssp": shifted_softplus,
    "silu": F.silu,
    "tanh": torch.tanh,
    "relu": F.relu,
}
"""By the names that settings have for them."""


class Activation(nn.Module):
    """One of `ACTIVATIONS` as a module.

    Args:
        name: of the function.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.name](x)

    def extra_repr(self) -> str:
        return self.name


def dense(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A dense layer initialised as in the released SchNet: Glorot-uniform weights, zero biases."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        with torch.no_grad():
            layer.bias.zero_()
    return layer


def perceptron(widths: Sequence[int], activation: str) -> nn.Sequential:
    """Dense layers with an activation function between each two.

    Args:
        widths: of the input, the hidden layers and the output.
        activation: one of `ACTIVATIONS`.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [dense(inputs, outputs), Activation(activation)]
    return nn.Sequential(*layers[:-1])
