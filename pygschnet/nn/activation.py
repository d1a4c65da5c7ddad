"""Shifted softplus, the activation function of SchNet."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def shifted_softplus(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """ssp(x) = ln(½eˣ + ½), so that ssp(0) = 0 and ssp′ is the logistic function.

    PyTorch's softplus becomes the identity above its threshold, by default 20, where float64 would see a jump of
    2e-9 and lose the second derivative; at 40 both are below rounding.

    Source: arXiv:1706.08566, section 4.
    """
    return F.softplus(x, threshold=40.0) - math.log(2.0)


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
