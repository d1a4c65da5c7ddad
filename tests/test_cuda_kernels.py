"""The Triton kernels against plain PyTorch: on a GPU where there is one, and in Triton's interpreter on the CPU.

The interpreter must be chosen before Triton is imported, so that one test runs this file again in a process of its own.
"""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from pygschnet.kernels import convolution, cuda, reference
from pygschnet.kernels.convolution import Pairs

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")
TRITON = importlib.util.find_spec("triton") is not None
COEFFICIENTS = 14

needs_device = pytest.mark.skipif(
    not (TRITON and (INTERPRETED or torch.cuda.is_available())), reason="needs Triton, and a GPU or its interpreter"
)
needs_gpu = pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a GPU")
precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])

CASES = {
    "random": {},
    "8 features": {"features": 8},
    "1 feature": {"features": 1},
    "64 features": {"features": 64, "atoms": 5, "pairs": 30},
    "100 features": {"features": 100, "atoms": 5, "pairs": 30},
    "128 features": {"features": 128, "atoms": 5, "pairs": 30},
    "1 atom and its images": {"atoms": 1, "pairs": 40},
    "many atoms without pairs": {"atoms": 90, "pairs": 5},
    "more pairs of an atom than a tile": {"atoms": 3, "pairs": 150},
    "one interval": {"interval": 4, "pairs": 300},
    "the last interval, one whole chunk": {"interval": COEFFICIENTS - 6, "pairs": cuda.CHUNK},
    "few intervals, many chunks each": {"intervals": 2, "pairs": 3 * cuda.CHUNK + 1},
    "no pairs": {"pairs": 0},
    "no atoms": {"atoms": 0, "pairs": 0},
}


@pytest.fixture(autouse=True)
def bounds_of_loops(monkeypatch):
    """In Triton's interpreter, they are arrays of one number, which NumPy since 2.4 does not take for integers."""
    if not INTERPRETED:
        return
    from triton.runtime import interpreter

    theirs = interpreter._patch_lang_tensor

    def patch(tensor, *scope):
        theirs(tensor, *scope)
        tensor.__index__ = lambda self: self.handle.data.item()

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch)


def make(dtype, atoms=12, pairs=100, features=20, interval=None, intervals=COEFFICIENTS - 5):
    """g, x, weights, table and pairs in no order; a tenth or more of them an atom and its own image."""
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randint(max(atoms, 1), (pairs,), generator=generator, dtype=torch.int32) for _ in range(2))
    second[::10] = first[::10]
    n = torch.randint(intervals, (pairs,), generator=generator, dtype=torch.int32)
    if interval is not None:
        n[:] = interval
    shapes = (atoms, features), (atoms, features), (pairs, 6), (COEFFICIENTS, features)
    numbers = [torch.randn(shape, generator=generator, dtype=dtype).to(DEVICE) for shape in shapes]
    first, second, n = first.to(DEVICE), second.to(DEVICE), n.to(DEVICE)
    return *numbers, Pairs(first, second, n, cuda.sort(first, second, n, atoms, COEFFICIENTS))


def operators(module, g, x, weights, table, pairs):
    pairs = pairs if module is convolution else list(pairs)
    return {
        "aggregate": module.aggregate(x, weights, table, pairs),
        "pair_dot": module.pair_dot(g, x, table, pairs),
        "table_grad": module.table_grad(g, x, weights, pairs, len(table)),
    }


def everything(module, arguments):
    """The operators, and all their first and second derivatives."""
    g, x, weights, table, pairs = arguments
    leaves = [t.clone().requires_grad_() for t in (g, x, weights, table)]
    results = operators(module, *leaves, pairs).values()
    first = [torch.autograd.grad((y * y).sum(), leaves, create_graph=True, allow_unused=True) for y in results]
    first = [gradient for gradients in first for gradient in gradients if gradient is not None]
    return [*results, *first, *torch.autograd.grad(sum((gradient**2).sum() for gradient in first), leaves)]


@pytest.mark.skipif(not TRITON or INTERPRETED, reason="needs Triton")
def test_in_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout


@needs_device
@precisions
@pytest.mark.parametrize("case", CASES)
def test_against_reference(case, dtype):
    arguments = make(dtype, **CASES[case])
    expected, results = operators(reference, *arguments), operators(cuda, *arguments)
    for name, result in results.items():
        assert result.dtype == dtype and result.shape == expected[name].shape
        torch.testing.assert_close(
            result,
            expected[name],
            rtol=2e-5 if dtype == torch.float32 else 1e-12,
            atol=1e-4 if dtype == torch.float32 else 1e-12,
            msg=lambda m, name=name: f"{name}: {m}",
        )


@needs_device
def test_same_bits_every_time():
    arguments = make(torch.float32, pairs=400, intervals=3)
    once, again = operators(cuda, *arguments), operators(cuda, *arguments)
    assert all(torch.equal(once[name], again[name]) for name in once)


@needs_device
def test_bits_do_not_depend_on_what_memory_held():
    """Results and scratch are not zeroed: every number must be written, or not read."""
    arguments = make(torch.float32, **CASES["few intervals, many chunks each"])
    once = operators(cuda, *arguments)
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        assert torch.empty(1).isnan()
        again = operators(cuda, *arguments)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(once[name], again[name]) for name in once)


@needs_device
def test_rows_of_padding_do_not_leak():
    """Tiles are filled up with atom 0 and coefficient 0, whose numbers must not get into other sums."""
    g, x, weights, table, pairs = make(torch.float32, **CASES["random"])
    first, second, interval = pairs.first.clamp(min=1), pairs.second.clamp(min=1), pairs.interval.clamp(min=1)
    pairs = Pairs(first, second, interval, cuda.sort(first, second, interval, len(x), COEFFICIENTS))
    g[0] = x[0] = table[0] = torch.nan
    results = operators(cuda, g, x, weights, table, pairs)
    assert all(result.isfinite().all() for result in results.values())


@needs_device
def test_tensors_that_are_not_contiguous():
    g, x, weights, table, pairs = make(torch.float64)
    arguments = [tensor.t().contiguous().t() for tensor in (g, x, weights, table)]
    expected, results = operators(reference, g, x, weights, table, pairs), operators(cuda, *arguments, pairs)
    for name in results:
        torch.testing.assert_close(results[name], expected[name])


@needs_device
def test_derivatives(monkeypatch):
    arguments = make(torch.float64, atoms=4, pairs=20, features=3)
    monkeypatch.setattr(convolution, "kernels", lambda x: cuda)
    for result, other in zip(everything(convolution, arguments), everything(reference, arguments), strict=True):
        torch.testing.assert_close(result, other)


@needs_gpu  # the interpreter would take a minute
def test_gradgradcheck(monkeypatch):
    monkeypatch.setattr(convolution, "kernels", lambda x: cuda)
    *tensors, pairs = make(torch.float64, atoms=3, pairs=4, features=2)
    g, x, weights, table = (tensor.requires_grad_() for tensor in tensors)
    options = {"fast_mode": True, "nondet_tol": 0.0}
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda *a: convolution.aggregate(*a, pairs), (x, weights, table), **options)
        assert check(lambda *a: convolution.pair_dot(*a, pairs), (g, x, table), **options)
        assert check(lambda *a: convolution.table_grad(*a, pairs, COEFFICIENTS), (g, x, weights), **options)


@needs_gpu
def test_gpu_is_available():
    assert cuda.available(torch.device("cuda"))


@needs_gpu
def test_gpu_need_not_wait_for_the_cpu():
    *tensors, pairs = make(torch.float32)
    operators(cuda, *tensors, pairs)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        order = cuda.sort(*pairs[:3], len(tensors[1]), COEFFICIENTS)
        operators(cuda, *tensors, pairs._replace(order=order))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_not_available_on_cpus():
    assert not cuda.available(torch.device("cpu"))


@pytest.mark.parametrize("case", CASES)
def test_sort(case):
    """Half-edges by atom and pairs by interval, each once, whatever the device."""
    _, x, _, _, (first, second, interval, order) = (
        t if isinstance(t, Pairs) else t.cpu() for t in make(torch.float32, **CASES[case])
    )
    first, second, interval, order = (tensor.tolist() for tensor in (first, second, interval, order))
    pairs, atoms = len(first), len(x)
    half_edges = list(zip(order[: 2 * pairs], order[2 * pairs : 4 * pairs], order[4 * pairs : 6 * pairs], strict=True))
    starts, rest = order[6 * pairs : 6 * pairs + atoms + 1], order[6 * pairs + atoms + 1 :]
    assert starts[0] == 0 and starts[-1] == 2 * pairs
    for atom in range(atoms):
        expected = [(second[p], interval[p], p) for p in range(pairs) if first[p] == atom]
        expected += [(first[p], interval[p], p) for p in range(pairs) if second[p] == atom]
        assert half_edges[starts[atom] : starts[atom + 1]] == expected
    intervals = COEFFICIENTS - 5
    most = (len(rest) - 3 * pairs - intervals - 1) // 2
    begin, end, chunks = rest[3 * pairs :][:most], rest[3 * pairs + most :][:most], rest[3 * pairs + 2 * most :]
    for n in range(intervals):
        taken = [p for c in range(chunks[n], chunks[n + 1]) for p in range(begin[c], end[c])]
        assert all(0 < end[c] - begin[c] <= cuda.CHUNK for c in range(chunks[n], chunks[n + 1]))
        assert [rest[p] for p in taken] == [p for p in range(pairs) if interval[p] == n]
        assert [(rest[pairs + p], rest[2 * pairs + p]) for p in taken] == [
            (first[p], second[p]) for p in range(pairs) if interval[p] == n
        ]
    assert all(begin[c] >= end[c] for c in range(chunks[-1], most))
