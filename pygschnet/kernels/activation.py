"""The shifted softplus, with its derivative as a second result."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pygschnet.kernels import cpu


class _Ssp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor]:
        y, derivative = cpu.ssp(x)
        ctx.save_for_backward(derivative)
        ctx.set_materialize_grads(False)
        return y, derivative

    @staticmethod
    def backward(ctx, gradient: Tensor | None, gradient_of_derivative: Tensor | None) -> Tensor | None:
        (s,) = ctx.saved_tensors  # carries its own gradient: differentiating again takes products, no exponentials
        first = None if gradient is None else gradient * s
        if gradient_of_derivative is None:
            return first
        second = gradient_of_derivative * (s - s * s)
        return second if first is None else first + second


def shifted_softplus(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """ssp(x) = ln(½eˣ + ½), so that ssp(0) = 0 and ssp′ is the logistic function.

    On CPUs, where there is a compiler, by a kernel of ours, which gives the derivative too. PyTorch's softplus
    becomes the identity above its threshold, by default 20, where float64 would see a jump of 2e-9 and lose the
    second derivative; at 40 both are below rounding.

    Source: arXiv:1706.08566, section 4.
    """
    if x.device.type == "cpu" and not in_transform(x) and cpu.library(x.dtype) is not None:
        return _Ssp.apply(x)[0]
    return F.softplus(x, threshold=40.0) - math.log(2.0)


def in_transform(x: Tensor) -> bool:
    """Whether x is traced or transformed (torch.compile, export, func) rather than computed."""
    return (
        type(x) not in (Tensor, torch.nn.Parameter)
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
    )
