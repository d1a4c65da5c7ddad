"""Filters from a table: a filter is a function of one number, so a spline through a few hundred values will do.

`SchNet` evaluates its filter networks at equally spaced distances, in float64, and takes the filters of all pairs from
quintic B-splines through these values (`kernels.spline`); gradients reach the networks through the table.
"""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from pygschnet.kernels import Pairs, cpu
from pygschnet.kernels.spline import TAPS, interpolation, spline_weights
from pygschnet.nn.activation import shifted_softplus
from pygschnet.nn.filter import FilterNetwork
from pygschnet.nn.radial import GaussianBasis

KNOTS_PER_WIDTH = 5
"""Knots per standard deviation of the Gaussians: W is off by about 4e-8 and W′ by 2e-6 of their root mean squares."""

FILTER_ERROR, SLOPE_ERROR = 1e-6, 1e-5
"""The largest errors of W and W′ (`table_error`) at which evaluation takes a table."""

MARGIN = 6
"""Knots beyond both ends of the distances, where the spline is less accurate."""


class TabulatedFilters(NamedTuple):
    """The filters of all pairs, W_pf = Σ_m w_pm C_{n(p)+m, f}, which `CFConv` takes without ever writing them out.

    Attributes:
        weights: w, [pairs, 6], the cutoff function included.
        table: C, [coefficients, filters].
        pairs: the pairs of atoms, and the interval n of each.
    """

    weights: Float[Tensor, "pairs taps"]
    table: Float[Tensor, "coefficients filters"]
    pairs: Pairs


class Knots(NamedTuple):
    """Equally spaced distances.

    Attributes:
        first: the first, in multiples of the spacing.
        number: how many.
        spacing: in Å.
    """

    first: int
    number: int
    spacing: float

    @classmethod
    def between(
        cls, shortest: float, longest: float, basis: GaussianBasis, per_width: int = KNOTS_PER_WIDTH
    ) -> "Knots":
        """Knots for all distances between two, so many to a standard deviation of the Gaussians of the basis."""
        spacing = basis.narrowest / per_width
        first = math.floor(shortest / spacing) - MARGIN
        last = math.ceil(longest / spacing) + MARGIN
        first, last = first // 8 * 8, -(-last // 8) * 8  # of similar batches the same, for the caches below
        return cls(first, last - first, spacing)

    def distances(self, offset: float = 0.0) -> Float[Tensor, "knots"]:
        """Where they are, or where the points are that lie `offset` spacings further, in Å."""
        return (torch.arange(self.number, dtype=torch.float64) + (self.first + offset)) * self.spacing


def tabulate(
    networks: Sequence[FilterNetwork], basis: GaussianBasis, knots: Knots, dtype: torch.dtype | None = None
) -> Float[Tensor, "networks coefficients filters"]:
    """The coefficients of the splines through the filters at the knots, differentiable.

    Args:
        networks: the filter networks.
        basis: the Gaussians that they take.
        knots: where they are evaluated.
        dtype: of the coefficients; that of the networks if not given.
    """
    weight = networks[0].dense_1.weight
    table = _interpolation(knots.number, weight.device) @ _filters(networks, basis, knots)
    return table.to(weight.dtype if dtype is None else dtype)


def tabulate_once(
    networks: Sequence[FilterNetwork], basis: GaussianBasis, knots: Knots
) -> Float[Tensor, "networks coefficients filters"]:
    """The same coefficients, faster, for a caller who will differentiate them once; by the compiled kernels of CPUs.

    Values are computed in float64 as ever, gradients in the precision of the weights.

    Args:
        networks: the filter networks.
        basis: the Gaussians that they take.
        knots: where they are evaluated.
    """
    layers = [network.dense_1 for network in networks] + [network.dense_2 for network in networks]
    parameters = [layer.weight for layer in layers] + [layer.bias for layer in layers]
    return _Tabulated.apply(basis, knots, networks[0].final_activation, *parameters)


class _Tabulated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, basis: GaussianBasis, knots: Knots, final_activation: bool, *parameters: Tensor) -> Tensor:
        count, like = len(parameters) // 4, parameters[0]
        first, second, bias_1, bias_2 = (parameters[k * count : (k + 1) * count] for k in range(4))
        expansion, reach = _expansion(knots, 0.0, basis.settings, like.device)
        weight_1, weight_2 = torch.cat([weight[:, reach] for weight in first]), torch.stack(second)
        hidden, slope = cpu.ssp(torch.addmm(torch.cat(bias_1).double(), expansion, weight_1.double().t()))
        hidden = hidden.unflatten(1, (count, -1)).transpose(0, 1)
        values = torch.baddbmm(torch.stack(bias_2).double().unsqueeze(1), hidden, weight_2.double().mT)
        last_slope = like.new_empty(0)
        if final_activation:
            values, last_slope = cpu.ssp(values)
        ctx.reach, ctx.width, ctx.knots = reach, like.shape[1], knots.number
        slope = slope.to(like).unflatten(1, (count, -1)).transpose(0, 1)
        ctx.save_for_backward(expansion, weight_2, hidden.to(like), slope, last_slope.to(like))
        return (_interpolation(knots.number, like.device) @ values).to(like)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        expansion, weight_2, hidden, slope, last_slope = ctx.saved_tensors
        values = _interpolation(ctx.knots, gradient.device, gradient.dtype).t() @ gradient
        if len(last_slope):
            values = values * last_slope
        inner = (values @ weight_2).mul_(slope)  # [networks, knots, filters]
        of_first = inner.new_zeros(len(inner), inner.shape[2], ctx.width)
        of_first[..., ctx.reach] = inner.mT @ expansion.to(gradient)
        of_second = values.mT @ hidden
        return None, None, None, *of_first, *of_second, *inner.sum(1), *values.sum(1)


def remembered(table: Tensor, networks: Sequence[FilterNetwork], basis: GaussianBasis, knots: Knots) -> Tensor:
    """A table made earlier, from the present weights; made anew only if gradients of the weights are asked for."""
    parameters = [parameter for network in networks for parameter in network.parameters()]
    if not (torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters)):
        return table
    return _Remembered.apply(table, lambda: tabulate(networks, basis, knots), *parameters)


class _Remembered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table: Tensor, remake: Callable[[], Tensor], *parameters: Tensor) -> Tensor:
        ctx.remake = remake
        ctx.save_for_backward(*parameters)
        return table.view_as(table)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        again = torch.is_grad_enabled()
        wanted = [p for p in ctx.saved_tensors if p.requires_grad]
        with torch.enable_grad():
            gradients = iter(torch.autograd.grad(ctx.remake(), wanted, gradient, create_graph=again))
        return None, None, *(next(gradients) if p.requires_grad else None for p in ctx.saved_tensors)


@torch.no_grad()
def table_error(
    networks: Sequence[FilterNetwork], basis: GaussianBasis, knots: Knots
) -> tuple[Float[Tensor, "networks"], Float[Tensor, "networks"]]:
    """Root mean square errors of W and of W′ from a table, in units of the root mean squares of W and W′ themselves.

    Taken in float64 a quarter of the way between all knots, where both errors are about largest.
    """
    u, step = 0.25, 1e-4
    table = _interpolation(knots.number, networks[0].dense_1.weight.device) @ _filters(networks, basis, knots)

    def error(order: int, truth: Tensor) -> Tensor:
        weights = spline_weights(table.new_tensor([u]), order)[0]
        spline = sum(weights[m] * table[:, m : m + knots.number - 1] for m in range(TAPS))
        inside = slice(MARGIN, -MARGIN)
        error, scale = (spline - truth[:, :-1])[:, inside], truth[:, inside]
        return (error.square().mean((1, 2)) / scale.square().mean((1, 2))).sqrt().nan_to_num(0.0)

    slope = (_filters(networks, basis, knots, u + step) - _filters(networks, basis, knots, u - step)) / (2 * step)
    return error(0, _filters(networks, basis, knots, u)), error(1, slope)


def accurate_enough(networks: Sequence[FilterNetwork], basis: GaussianBasis, knots: Knots) -> bool:
    """Whether a table gives filters to float32's precision; says so if not."""
    filters, slopes = (float(error.max()) for error in table_error(networks, basis, knots))
    if filters <= FILTER_ERROR and slopes <= SLOPE_ERROR:
        return True
    warnings.warn(
        f"these filters vary faster than a table can follow (errors {filters:.0e} of W, {slopes:.0e} of its slope): "
        "they are evaluated pair by pair, which is slower",
        stacklevel=2,
    )
    return False


def _filters(networks: Sequence[FilterNetwork], basis: GaussianBasis, knots: Knots, offset: float = 0.0) -> Tensor:
    """The networks' outputs at the knots, or so many spacings further, all networks at once, in float64."""
    device = networks[0].dense_1.weight.device
    expansion, reach = _expansion(knots, offset, basis.settings, device)
    first, second = [network.dense_1 for network in networks], [network.dense_2 for network in networks]
    weight_1 = torch.cat([layer.weight[:, reach] for layer in first]).double()
    bias_1 = torch.cat([layer.bias for layer in first]).double()
    weight_2 = torch.stack([layer.weight for layer in second]).double()
    bias_2 = torch.stack([layer.bias for layer in second]).double()
    hidden = shifted_softplus(torch.addmm(bias_1, expansion, weight_1.t()))
    hidden = hidden.unflatten(1, (len(networks), -1)).transpose(0, 1)
    filters = torch.baddbmm(bias_2.unsqueeze(1), hidden, weight_2.mT)
    return shifted_softplus(filters) if networks[0].final_activation else filters


@functools.lru_cache(maxsize=64)
def _expansion(knots: Knots, offset: float, settings: tuple, device: torch.device) -> tuple[Tensor, slice]:
    basis, distances = GaussianBasis(*settings), knots.distances(offset)
    reach = basis.reach(distances.float())
    with torch.inference_mode(False), torch.no_grad():
        return basis(distances, reach).to(device), reach


@functools.lru_cache(maxsize=64)
def _interpolation(knots: int, device: torch.device, dtype: torch.dtype = torch.float64) -> Tensor:
    matrix = interpolation(knots)
    with torch.inference_mode(False):  # far from the diagonal are numbers so small that they slow products down
        return torch.from_numpy(np.where(np.abs(matrix) < 1e-25, 0.0, matrix)).to(device, dtype)
