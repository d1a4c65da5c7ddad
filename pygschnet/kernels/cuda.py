"""The kernels on GPUs, in Triton, which compiles each for the GPU when it is first called, in about a second.

Every sum has one owner, who takes it in a fixed order, so that the bits are the same every time: an atom adds up its
half-edges (`aggregate`), a pair its features (`pair_dot`), and a chunk of up to 64 pairs of one interval its products,
to which a second kernel adds those of the other chunks (`table_grad`). Chunks, because a few intervals hold most of
the pairs. `sort` finds who owns what, once per graph, without making the GPU wait for the CPU.
"""

import functools
import warnings
from collections.abc import Sequence
from typing import no_type_check

import torch
from torch import Tensor

from pygschnet.kernels.spline import TAPS

try:
    import triton
    import triton.language as tl
    from triton.language import constexpr
except ImportError:  # there are no GPUs here, or not for Triton
    triton = tl = constexpr = None

CHUNK = 64  # pairs
TILE = 2048  # numbers that a program works on at a time, 16 for each of its threads
REALS = (torch.float32, torch.float64)


@functools.cache
def available(device: torch.device) -> bool:
    """Whether Triton is there and can compile for this GPU, which takes a C compiler too; tried once."""
    if triton is None or device.type != "cuda":
        return False
    try:
        zero = torch.zeros(TAPS, 1, device=device)
        _launch(_add_chunks, (1, 1), zero, zero.int(), zero, 1, 1, 1, 1)
    except Exception as error:  # of Triton's, the compiler's or the driver's
        warnings.warn(f"no fused kernels on {device}, as Triton fails there: {error}", stacklevel=2)
        return False
    return True


def sort(first: Tensor, second: Tensor, interval: Tensor, atoms: int, coefficients: int) -> Tensor:
    """Who owns which sum: the half-edges by atom, then the pairs by interval, and chunks of them; int32 [numbers].

    Half-edges: other atom, interval, pair [2 · pairs each]; where each atom's begin [atoms + 1].
    Pairs: pair, first, second [pairs each]; begin and end of each chunk; first chunk of each interval [intervals + 1].
    """
    pairs, intervals = len(first), coefficients - TAPS + 1
    numbers = functools.partial(torch.arange, dtype=torch.int32, device=first.device)
    rows, half_edge = torch.cat([first, second]).sort(stable=True)
    starts_of_atoms = torch.searchsorted(rows, numbers(atoms + 1))
    ascending, pair = interval.sort(stable=True)
    starts = torch.searchsorted(ascending, numbers(intervals + 1))
    held = starts.diff(prepend=starts[:1])  # 0, then pairs of each interval
    chunks = ((held + (CHUNK - 1)) // CHUNK).cumsum(0)
    chunk = torch.arange(_most_chunks(pairs, intervals), device=first.device)
    n = torch.searchsorted(chunks, chunk, right=True) - 1  # one too high where there is no such chunk, which is empty
    begin = starts[n] + CHUNK * (chunk - chunks[n])
    end = torch.minimum(begin + CHUNK, starts[(n + 1).clamp(max=intervals)])
    return torch.cat(
        [
            torch.cat([second, first])[half_edge],
            interval.repeat(2)[half_edge],
            numbers(pairs).repeat(2)[half_edge],
            starts_of_atoms.int(),
            pair.int(),
            first[pair],
            second[pair],
            begin.int(),
            end.int(),
            chunks.int(),
        ]
    )


def aggregate(x: Tensor, weights: Tensor, table: Tensor, pairs: Sequence[Tensor]) -> Tensor:
    """y_i = Σ_j x_j ∘ W_ij."""
    x, features = x.contiguous(), x.shape[1]
    y = torch.empty_like(x)
    columns = _columns(features, 64)
    grid = (len(x), -(-features // columns))
    count, order = len(weights), pairs[3]
    _launch(_aggregate, grid, x, weights.contiguous(), table.contiguous(), order, y, count, features, 16, columns)
    return y


def pair_dot(g: Tensor, x: Tensor, table: Tensor, pairs: Sequence[Tensor]) -> Tensor:
    """q_pm = Σ_f (g_i x_j + g_j x_i) C_{n(p)+m}."""
    features, count = x.shape[1], len(pairs[0])
    q = x.new_empty(count, TAPS)
    columns = _columns(features, features)
    rows = max(1, TILE // columns)
    tensors = (g.contiguous(), x.contiguous(), table.contiguous(), *pairs[:3], q)
    _launch(_pair_dot, (-(-count // rows), min(features, 1)), *tensors, count, features, rows, columns)
    return q


def table_grad(g: Tensor, x: Tensor, weights: Tensor, pairs: Sequence[Tensor], knots: int) -> Tensor:
    """C̄_k = Σ_{n(p)+m=k} w_pm (g_i ∘ x_j + g_j ∘ x_i)."""
    features, count, intervals = x.shape[1], len(weights), knots - TAPS + 1
    chunks = _most_chunks(count, intervals)
    by_interval = pairs[3][6 * count + len(x) + 1 :]
    sums = x.new_empty(chunks, TAPS, features)
    table = x.new_empty(knots, features)
    columns = _columns(features, TILE // CHUNK)
    blocks = -(-features // columns)
    tensors = (g.contiguous(), x.contiguous(), weights.contiguous(), by_interval, sums)
    _launch(_chunk, (chunks, blocks), *tensors, count, chunks, features, CHUNK, columns)
    firsts = by_interval[3 * count + 2 * chunks :]
    _launch(_add_chunks, (knots, blocks), sums, firsts, table, intervals, features, CHUNK, columns)
    return table


def _most_chunks(pairs: int, intervals: int) -> int:
    """As many chunks as there can be; how many there are, only the GPU knows."""
    return pairs // CHUNK + min(pairs, intervals)


def _columns(features: int, most: int) -> int:
    """Columns of a tile: a power of two."""
    return max(16, 1 << (min(features, most) - 1).bit_length())


def _launch(kernel, grid: tuple[int, int], x: Tensor, *arguments: Tensor | int) -> None:
    if 0 not in grid:
        with torch.cuda.device_of(x):
            kernel[grid](x, *arguments)


def _jit(function):
    """A kernel, one for all alignments of the index tensors and all numbers of pairs, atoms and intervals."""
    varying = ["first", "second", "interval", "order", "firsts", "count", "chunks", "intervals"]
    return triton.jit(function, do_not_specialize=varying) if triton else function


# In the kernels, constants are in capitals: features, and the rows and columns (features) of a tile.


@_jit
@no_type_check
def _aggregate(x, weights, table, order, y, count, F: constexpr, ROWS: constexpr, COLUMNS: constexpr):
    atom = tl.program_id(0)
    f = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    begin = tl.load(order + 6 * count + atom)
    end = tl.load(order + 6 * count + atom + 1)
    total = tl.zeros([ROWS, COLUMNS], x.dtype.element_ty)
    for row in range(begin, end, ROWS):
        e = row + tl.arange(0, ROWS)[:, None]
        valid = e < end
        inside = valid & (f < F)
        other = tl.load(order + e, valid, 0).to(tl.int64) * F + f
        knot = tl.load(order + 2 * count + e, valid, 0) * F + f
        pair = tl.load(order + 4 * count + e, valid, 0) * 6
        filters = tl.zeros([ROWS, COLUMNS], x.dtype.element_ty)
        for m in tl.static_range(6):
            filters += tl.load(weights + pair + m, valid, 0) * tl.load(table + knot + m * F, inside, 0)
        total += filters * tl.load(x + other, inside, 0)
    tl.store(y + atom.to(tl.int64) * F + f, tl.sum(total, 0)[None, :], f < F)


@_jit
@no_type_check
def _pair_dot(g, x, table, first, second, interval, q, count, F: constexpr, ROWS: constexpr, COLUMNS: constexpr):
    p = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    f = tl.arange(0, COLUMNS)[None, :]
    valid = p < count
    inside = valid & (f < F)
    i = tl.load(first + p, valid, 0).to(tl.int64) * F + f
    j = tl.load(second + p, valid, 0).to(tl.int64) * F + f
    knot = tl.load(interval + p, valid, 0) * F + f
    products = tl.load(g + i, inside, 0) * tl.load(x + j, inside, 0)
    products += tl.load(g + j, inside, 0) * tl.load(x + i, inside, 0)
    for m in tl.static_range(6):
        dots = tl.sum(products * tl.load(table + knot + m * F, inside, 0), 1)
        tl.store(q + p * 6 + m, dots[:, None], valid)


@_jit
@no_type_check
def _chunk(g, x, weights, order, sums, count, chunks, F: constexpr, ROWS: constexpr, COLUMNS: constexpr):
    chunk = tl.program_id(0)
    f = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    begin = tl.load(order + 3 * count + chunk)
    end = tl.load(order + 3 * count + chunks + chunk)
    p = begin + tl.arange(0, ROWS)[:, None]
    valid = p < end
    inside = valid & (f < F)
    pair = tl.load(order + p, valid, 0) * 6
    i = tl.load(order + count + p, valid, 0).to(tl.int64) * F + f
    j = tl.load(order + 2 * count + p, valid, 0).to(tl.int64) * F + f
    products = tl.load(g + i, inside, 0) * tl.load(x + j, inside, 0)
    products += tl.load(g + j, inside, 0) * tl.load(x + i, inside, 0)
    for m in tl.static_range(6):
        total = tl.sum(products * tl.load(weights + pair + m, valid, 0), 0)
        tl.store(sums + (chunk.to(tl.int64) * 6 + m) * F + f, total[None, :], f < F)


@_jit
@no_type_check
def _add_chunks(sums, firsts, table, intervals, F: constexpr, ROWS: constexpr, COLUMNS: constexpr):
    k = tl.program_id(0)
    f = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    total = tl.zeros([ROWS, COLUMNS], sums.dtype.element_ty)
    for m in tl.static_range(6):
        exists = (k >= m) & (k - m < intervals)
        begin = tl.load(firsts + k - m, exists, 0)
        end = tl.load(firsts + k - m + 1, exists, 0)
        for row in range(begin, end, ROWS):
            chunk = row + tl.arange(0, ROWS)[:, None]
            total += tl.load(sums + (chunk.to(tl.int64) * 6 + m) * F + f, (chunk < end) & (f < F), 0)
    tl.store(table + k * F + f, tl.sum(total, 0)[None, :], f < F)
