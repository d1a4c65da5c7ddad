"""The kernels on CPUs: `molecule.c` and what it includes, compiled for this machine when first needed, in a second."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pygschnet.kernels.spline import TAPS

SOURCES = [Path(__file__).with_name(name) for name in ("convolution.c", "molecule.c")]
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-shared", "-fPIC")
REALS = {torch.float32: ("float", 16), torch.float64: ("double", 8)}  # and how many fill a vector
ARGUMENTS = {  # how many arrays and sizes
    "aggregate": (7, 6),
    "pair_dot": (7, 3),
    "table_grad": (7, 5),
    "aggregate_two": (9, 6),
    "table_grad_two": (10, 5),
    "ssp": (3, 2),
    "splines": (5, 5),
    "molecule": (23, 10),
}
WORTH_A_THREAD = 40_000  # products; fewer are done before a second thread has started

_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True  # GNU's OpenMP hangs in the child of a process that has used it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@functools.cache
def library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The compiled kernels; None without a C compiler, or for a precision that they do not have.

    Compiled once per machine type and version of this package, into ~/.cache/pygschnet/kernels.
    """
    compiler = os.environ.get("CC", "cc").split()
    if dtype not in REALS or os.name != "posix":
        return None
    if shutil.which(compiler[0]) is None:
        _slow(f"there is no C compiler {compiler[0]!r}")
        return None
    real = REALS[dtype][0]
    command = [*compiler, *FLAGS, f"-DREAL={real}", str(SOURCES[-1]), "-o"]
    key = hashlib.sha256(" ".join([*command, _processor()]).encode() + _source()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pygschnet" / "kernels"
    target = folder / f"{real}-{key}.so"
    try:
        if not target.exists():
            written = _writable(folder)
            with tempfile.TemporaryDirectory(dir=written) as temporary:  # several processes may be at it
                subprocess.run([*command, f"{temporary}/{real}.so", "-lm"], check=True, capture_output=True)
                if written is None:  # for this process only
                    return _load(f"{temporary}/{real}.so")
                os.replace(f"{temporary}/{real}.so", target)
        return _load(str(target))
    except subprocess.CalledProcessError as error:
        _slow(f"the C compiler {compiler[0]!r} fails: {error.stderr.decode(errors='replace').strip()[:300]}")
    except OSError as error:
        _slow(str(error))
    return None


def _slow(reason: str) -> None:
    warnings.warn(f"without its compiled kernels SchNet takes several times as long: {reason}", stacklevel=3)


def _load(file: str) -> ctypes.CDLL:
    loaded = ctypes.CDLL(file)
    for name, (arrays, sizes) in ARGUMENTS.items():
        function = getattr(loaded, name)
        function.argtypes = [ctypes.c_void_p] * arrays + [ctypes.c_int64] * sizes
        function.restype = ctypes.c_int64 if name == "molecule" else None
    return loaded


def _writable(folder: Path) -> Path | None:
    """The folder, made if need be; None if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _source() -> bytes:
    return b"".join(source.read_bytes() for source in SOURCES)


def _processor() -> str:
    try:
        return next(
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Feat"))
        )
    except (OSError, StopIteration):
        return platform.processor()


def aggregate(x: Tensor, weights: Tensor, table: Tensor, pairs: Sequence[Tensor]) -> Tensor:
    """y_i = Σ_j x_j ∘ W_ij."""
    features, (x, table), weights = x.shape[1], _whole_vectors(x, table), weights.contiguous()
    y = torch.empty_like(x)
    threads, vectors = _share(weights.numel() * x.shape[1], x)
    call("aggregate", (x, weights, table, *pairs[:3], y), *x.shape, weights.shape[0], table.shape[0], vectors, threads)
    return y if x.shape[1] == features else y[:, :features]


def pair_dot(g: Tensor, x: Tensor, table: Tensor, pairs: Sequence[Tensor]) -> Tensor:
    """q_pm = Σ_f (g_i x_j + g_j x_i) C_{n(p)+m}."""
    g, x, table = _whole_vectors(g, x, table)
    q = x.new_empty(pairs[0].shape[0], TAPS)
    call("pair_dot", (g, x, table, *pairs[:3], q), x.shape[1], q.shape[0], threads_for(q.numel() * x.shape[1]))
    return q


def table_grad(g: Tensor, x: Tensor, weights: Tensor, pairs: Sequence[Tensor], coefficients: int) -> Tensor:
    """C̄_k = Σ_{n(p)+m=k} w_pm (g_i ∘ x_j + g_j ∘ x_i)."""
    features, (g, x), weights = x.shape[1], _whole_vectors(g, x), weights.contiguous()
    table = x.new_empty(coefficients, x.shape[1])
    threads, vectors = _share(weights.numel() * x.shape[1], x)
    call("table_grad", (g, x, weights, *pairs[:3], table), x.shape[1], weights.shape[0], coefficients, vectors, threads)
    return table if x.shape[1] == features else table[:, :features]


def aggregate_two(
    x: Tensor, weights: Tensor, x2: Tensor, weights2: Tensor, table: Tensor, pairs: Sequence[Tensor]
) -> Tensor:
    """The sum of `aggregate` of x and weights and of x2 and weights2, with the same table."""
    features, (x, x2, table) = x.shape[1], _whole_vectors(x, x2, table)
    y = torch.empty_like(x)
    threads, vectors = _share(2 * weights.numel() * x.shape[1], x)
    arrays = (x, weights.contiguous(), x2, weights2.contiguous(), table, *pairs[:3], y)
    call("aggregate_two", arrays, *x.shape, weights.shape[0], table.shape[0], vectors, threads)
    return y if x.shape[1] == features else y[:, :features]


def table_grad_two(
    g: Tensor,
    x: Tensor,
    weights: Tensor,
    g2: Tensor,
    x2: Tensor,
    weights2: Tensor,
    pairs: Sequence[Tensor],
    coefficients: int,
) -> Tensor:
    """The sum of `table_grad` of g, x and weights, of g2, x2 and weights, and of g2, x and weights2."""
    features, (g, x, g2, x2) = x.shape[1], _whole_vectors(g, x, g2, x2)
    table = x.new_empty(coefficients, x.shape[1])
    threads, vectors = _share(2 * weights.numel() * x.shape[1], x)
    arrays = (g, x, weights.contiguous(), g2, x2, weights2.contiguous(), *pairs[:3], table)
    call("table_grad_two", arrays, x.shape[1], weights.shape[0], coefficients, vectors, threads)
    return table if x.shape[1] == features else table[:, :features]


def ssp(x: Tensor) -> tuple[Tensor, Tensor]:
    """ssp(x) and its derivative."""
    x = x.contiguous()
    y, derivative = torch.empty_like(x), torch.empty_like(x)
    call("ssp", (x, y, derivative), x.numel(), threads_for(8 * x.numel()))
    return y, derivative


def splines(
    distances: Tensor, scales: Tensor, first: int, coefficients: int, cosine: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Spline weights times the cutoff function, their derivatives, and the intervals; arguments as of `PairWeights`."""
    exact = distances.double().contiguous()
    weights, slopes = exact.new_empty(2, exact.shape[0], TAPS, dtype=dtype).unbind()
    interval = torch.empty_like(exact, dtype=torch.int32)
    sizes = (exact.shape[0], first, coefficients - TAPS, int(cosine), threads_for(20 * exact.shape[0]))
    call("splines", (exact, scales, weights, slopes, interval), *sizes, dtype=dtype)
    return weights, slopes, interval


class PairWeights(torch.autograd.Function):
    """Spline weights times the cutoff function, with an analytic derivative, which is a constant; and the intervals.

    What `spline.locate`, `spline.spline_weights` and the cutoff functions "none", "hard" and "cosine" do together.

    Args:
        distances: d, in Å.
        scales: the spacing h and the cutoff radius, infinite if there is none, in Å, in float64.
        first: which multiple of the spacing the first knot is.
        coefficients: length of the table.
        cosine: whether the cutoff function is the cosine.
        dtype: of the weights; all is computed in float64.
    """

    @staticmethod
    def forward(
        ctx, distances: Tensor, scales: Tensor, first: int, coefficients: int, cosine: bool, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        weights, slopes, interval = splines(distances, scales, first, coefficients, cosine, dtype)
        ctx.save_for_backward(slopes)
        ctx.mark_non_differentiable(interval)
        ctx.dtype = distances.dtype
        return weights, interval

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return torch.linalg.vecdot(gradient, ctx.saved_tensors[0]).to(ctx.dtype), None, None, None, None, None


def threads_for(products: int) -> int:
    """How many threads so much work is worth."""
    return 1 if _forked or products < WORTH_A_THREAD else torch.get_num_threads()


def _share(products: int, x: Tensor) -> tuple[int, int]:
    """How many threads, and how many vectors of features each of them takes at a time."""
    blocks = x.shape[1] // REALS[x.dtype][1]
    threads = min(threads_for(products), blocks)
    return threads, next(vectors for vectors in (4, 2, 1) if blocks % (vectors * threads) == 0 or vectors == 1)


def _whole_vectors(*tensors: Tensor) -> list[Tensor]:
    """The tensors with zeros added to the features up to a multiple of 64 bytes."""
    missing = -tensors[0].shape[1] % REALS[tensors[0].dtype][1]
    return [(F.pad(tensor, (0, missing)) if missing else tensor).contiguous() for tensor in tensors]


def call(name: str, arrays: tuple[Tensor, ...], *sizes: int, dtype: torch.dtype | None = None) -> int | None:
    """Call a kernel with arrays, all of them contiguous, and sizes."""
    kernel = getattr(library(dtype or arrays[0].dtype), name)
    return kernel(*[array.data_ptr() for array in arrays], *sizes)
