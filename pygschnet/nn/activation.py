"""Shifted softplus, the activation function of SchNet."""

import torch
from torch import Tensor, nn

from pygschnet.kernels import shifted_softplus

__all__ = ["ShiftedSoftplus", "dense", "shifted_softplus"]


class ShiftedSoftplus(nn.Module):
    """`shifted_softplus` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return shifted_softplus(x)


def dense(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A dense layer initialised as in the released SchNet: Glorot-uniform weights, zero biases."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        with torch.no_grad():
            layer.bias.zero_()
    return layer
