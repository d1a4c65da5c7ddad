"""The three operators of the fused convolution, closed under differentiation, and who computes them.

With pairs p = (i, j) of atoms, features f, B-spline weights w_pm of each pair (`spline`) and coefficients C_kf, the
filter of a pair is W_pf = Σ_m w_pm C_{n(p)+m, f}, and everything is a derivative of the one form

    S(g, x, w, C) = Σ_p Σ_m Σ_f w_pm (g_if x_jf + g_jf x_if) C_{n(p)+m, f}

which is linear in each of its arguments and symmetric in g and x:

    aggregate(x, w, C)   = ∂S/∂g   the convolution, y_i = Σ_j x_j ∘ W_ij
    pair_dot(g, x, C)    = ∂S/∂w   what becomes a force
    table_grad(g, x, w)  = ∂S/∂C   what trains the filter network

So the derivatives of each, of any order, are the same three again. No array of pairs × features is made. A pair stands
for both directions; i = j is an atom and its own periodic image, counted in both directions.

`reference` computes them in plain PyTorch, `cpu` in C, `cuda` in Triton. The results are the same bits every time, and
on CPUs with any number of threads.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function

from pygschnet.kernels import cpu, cuda, reference
from pygschnet.kernels.activation import in_transform
from pygschnet.kernels.spline import TAPS


class Pairs(NamedTuple):
    """Pairs of atoms and the interval of the spline that each one's distance lies in.

    Attributes:
        first: atom i, int32 [pairs]; kernels are fastest if it ascends.
        second: atom j, int32 [pairs].
        interval: n, int32 [pairs]; the filter takes the coefficients n … n + 5.
        order: what a GPU needs in addition, from `cuda.sort`; empty elsewhere.
    """

    first: Int[Tensor, "pairs"]
    second: Int[Tensor, "pairs"]
    interval: Int[Tensor, "pairs"]
    order: Int[Tensor, "numbers"]


def make_pairs(
    first: Int[Tensor, "pairs"],
    second: Int[Tensor, "pairs"],
    interval: Int[Tensor, "pairs"],
    atoms: int,
    coefficients: int,
) -> Pairs:
    """`Pairs` for the device that they are on.

    Args:
        first: atom i of each pair, of any integer type.
        second: atom j.
        interval: n.
        atoms: how many atoms there are.
        coefficients: length of the table.
    """
    first, second, interval = first.int(), second.int(), interval.int()
    if available(first.device, torch.float32) and first.is_cuda:
        return Pairs(first, second, interval, cuda.sort(first, second, interval, atoms, coefficients))
    return Pairs(first, second, interval, first.new_empty(0))


def available(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there are fused kernels for tensors of this kind; `reference` serves all others."""
    if device.type == "cuda":
        return dtype in cuda.REALS and cuda.available(device)
    return device.type == "cpu" and cpu.library(dtype) is not None


def aggregate(
    x: Float[Tensor, "atoms features"],
    weights: Float[Tensor, "pairs taps"],
    table: Float[Tensor, "coefficients features"],
    pairs: Pairs,
) -> Float[Tensor, "atoms features"]:
    """y_i = Σ_j x_j ∘ W_ij: the convolution.

    Args:
        x: features of the atoms.
        weights: w of the pairs, from `spline_weights`.
        table: coefficients C of the filters.
        pairs: who neighbours whom.
    """
    if in_transform(x):
        return torch.ops.pygschnet.aggregate(x, weights, table, list(pairs))
    return Aggregate.apply(x, weights, table, pairs)


def pair_dot(
    g: Float[Tensor, "atoms features"],
    x: Float[Tensor, "atoms features"],
    table: Float[Tensor, "coefficients features"],
    pairs: Pairs,
) -> Float[Tensor, "pairs taps"]:
    """q_pm = Σ_f (g_i x_j + g_j x_i)_f C_{n(p)+m, f}; arguments as of `aggregate`."""
    if in_transform(x):
        return torch.ops.pygschnet.pair_dot(g, x, table, list(pairs))
    return PairDot.apply(g, x, table, pairs)


def table_grad(
    g: Float[Tensor, "atoms features"],
    x: Float[Tensor, "atoms features"],
    weights: Float[Tensor, "pairs taps"],
    pairs: Pairs,
    coefficients: int,
) -> Float[Tensor, "coefficients features"]:
    """C̄_k = Σ_{n(p)+m=k} w_pm (g_i ∘ x_j + g_j ∘ x_i); arguments as of `aggregate`, and the length of the table."""
    if in_transform(x):
        return torch.ops.pygschnet.table_grad(g, x, weights, list(pairs), coefficients)
    return TableGrad.apply(g, x, weights, pairs, coefficients)


def kernels(x: Tensor):
    """The module whose kernels compute with tensors such as x."""
    if not available(x.device, x.dtype):
        return reference
    return cuda if x.is_cuda else cpu


class Aggregate(Function):
    """`aggregate` and its derivatives."""

    @staticmethod
    def forward(ctx, x: Tensor, weights: Tensor, table: Tensor, pairs: Sequence[Tensor]) -> Tensor:
        ctx.save_for_backward(x, weights, table, *pairs)
        return kernels(x).aggregate(x, weights, table, pairs)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, table, *pairs = ctx.saved_tensors
        pairs = Pairs(*pairs)
        return (
            aggregate(g, weights, table, pairs) if _wanted(ctx, 0, g) else None,
            pair_dot(g, x, table, pairs) if _wanted(ctx, 1, g, geometry=True) else None,
            table_grad(g, x, weights, pairs, len(table)) if _wanted(ctx, 2, g) else None,
            None,
        )


class PairDot(Function):
    """`pair_dot` and its derivatives."""

    @staticmethod
    def forward(ctx, g: Tensor, x: Tensor, table: Tensor, pairs: Sequence[Tensor]) -> Tensor:
        ctx.save_for_backward(g, x, table, *pairs)
        return kernels(x).pair_dot(g, x, table, pairs)

    @staticmethod
    def backward(ctx, q: Tensor) -> tuple[Tensor | None, ...]:
        g, x, table, *pairs = ctx.saved_tensors
        pairs = Pairs(*pairs)
        return (
            aggregate(x, q, table, pairs) if _wanted(ctx, 0, q) else None,
            aggregate(g, q, table, pairs) if _wanted(ctx, 1, q) else None,
            table_grad(g, x, q, pairs, len(table)) if _wanted(ctx, 2, q) else None,
            None,
        )


class TableGrad(Function):
    """`table_grad` and its derivatives."""

    @staticmethod
    def forward(ctx, g: Tensor, x: Tensor, weights: Tensor, pairs: Sequence[Tensor], coefficients: int) -> Tensor:
        ctx.save_for_backward(g, x, weights, *pairs)
        return kernels(x).table_grad(g, x, weights, pairs, coefficients)

    @staticmethod
    def backward(ctx, table: Tensor) -> tuple[Tensor | None, ...]:
        g, x, weights, *pairs = ctx.saved_tensors
        pairs = Pairs(*pairs)
        return (
            aggregate(x, weights, table, pairs) if _wanted(ctx, 0, table) else None,
            aggregate(g, weights, table, pairs) if _wanted(ctx, 1, table) else None,
            pair_dot(g, x, table, pairs) if _wanted(ctx, 2, table, geometry=True) else None,
            None,
            None,
        )


def _wanted(ctx, argument: int, gradient: Tensor, geometry: bool = False) -> bool:
    """Whether anyone needs this gradient.

    `needs_input_grad` only tells whether someone might: the table requires a gradient in the force pass too, the
    weights in the pass that trains, and nobody takes them. The engine knows what it is going to execute; and a model
    that has computed its forces no longer requires gradients of the positions, to which alone the weights lead.
    """
    if not ctx.needs_input_grad[argument]:
        return False
    if in_transform(gradient):
        return True
    node = ctx.next_functions[argument][0]
    if geometry and not any(leaf.requires_grad for leaf in _leaves(node)):
        return False
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf, of which autograd.grad was asked for the gradient
        return True


def _leaves(node) -> list[Tensor]:
    """The tensors that a gradient arriving here would end in."""
    if "leaves" not in node.metadata:
        found, seen, ahead = [], set(), [node]
        while ahead:
            current = ahead.pop()
            if current is None or current in seen:
                continue
            seen.add(current)
            if hasattr(current, "variable"):
                found.append(current.variable)
            ahead += [following for following, _ in current.next_functions]
        node.metadata["leaves"] = found
    return node.metadata["leaves"]


def _register() -> None:
    """The same operators for torch.compile and torch.export, which see no `Function` of ours."""
    schemas = {
        "aggregate": ("Tensor x, Tensor weights, Tensor table, Tensor[] pairs", Aggregate),
        "pair_dot": ("Tensor g, Tensor x, Tensor table, Tensor[] pairs", PairDot),
        "table_grad": ("Tensor g, Tensor x, Tensor weights, Tensor[] pairs, SymInt coefficients", TableGrad),
    }
    shapes: dict[str, Callable[..., Tensor]] = {
        "aggregate": lambda x, weights, table, pairs: torch.empty_like(x),
        "pair_dot": lambda g, x, table, pairs: x.new_empty(len(pairs[0]), TAPS),
        "table_grad": lambda g, x, weights, pairs, coefficients: x.new_empty(coefficients, x.shape[1]),
    }
    for name, (arguments, function) in schemas.items():
        operator = f"pygschnet::{name}"
        torch.library.define(operator, f"({arguments}) -> Tensor")
        torch.library.impl(operator, ["CPU", "CUDA"], _computing(name))
        torch.library.register_fake(operator, shapes[name])
        torch.library.register_autograd(operator, _listing(function.backward), setup_context=_save)


def _listing(backward):
    def gradients(ctx, g):
        result = list(backward(ctx, g))
        result[3] = [None] * (len(ctx.saved_tensors) - 3)  # of the list of index tensors
        return tuple(result)

    return gradients


def _computing(name: str):
    return lambda *arguments: getattr(kernels(arguments[0]), name)(*arguments).contiguous()


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:3], *inputs[3])


_register()
