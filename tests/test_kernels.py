"""The operators of the fused convolution: against sums written out, their derivatives, the same bits every time."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline, make_interp_spline
from torch.autograd import gradcheck, gradgradcheck

import pygschnet.kernels.convolution as convolution
from pygschnet.kernels import aggregate, cpu, make_pairs, pair_dot, reference, shifted_softplus, table_grad
from pygschnet.kernels.spline import TAPS, interpolation, locate, spline_weights
from pygschnet.nn import Cutoff

compiled = pytest.mark.skipif(cpu.library(torch.float32) is None, reason="no C compiler")


def system(atoms=5, pairs=9, coefficients=11, features=8, dtype=torch.float64, seed=0, ascending=True):
    """Random arguments of the operators; some pairs are an atom and its own image, some atoms have none."""
    generator = torch.Generator().manual_seed(seed)

    def integers(high):
        return torch.randint(0, high, (pairs,), generator=generator)

    def reals(*shape):
        return torch.randn(*shape, dtype=dtype, generator=generator).requires_grad_()

    first = integers(atoms).sort()[0] if ascending else integers(atoms)
    indices = make_pairs(first, integers(atoms), integers(coefficients - TAPS + 1), atoms, coefficients)
    return reals(atoms, features), reals(atoms, features), reals(pairs, TAPS), reals(coefficients, features), indices


def form(g, x, w, c, pairs):
    """S, from which the operators follow, term by term."""
    return sum(
        w[p, m] * (g[i] * x[j] + g[j] * x[i]) @ c[n + m]
        for p, (i, j, n) in enumerate(zip(*(array.tolist() for array in pairs[:3]), strict=True))
        for m in range(TAPS)
    )


@pytest.mark.parametrize("implementation", ["chosen", "reference"])
def test_operators_are_derivatives_of_one_form(implementation):
    g, x, w, c, pairs = system()
    source = reference if implementation == "reference" else convolution
    expected = torch.autograd.grad(form(g, x, w, c, pairs), (g, w, c))
    for result, derivative in zip(
        (
            source.aggregate(x, w, c, pairs),
            source.pair_dot(g, x, c, pairs),
            source.table_grad(g, x, w, pairs, len(c)),
        ),
        expected,
        strict=True,
    ):
        torch.testing.assert_close(result, derivative, rtol=1e-13, atol=1e-13)


@compiled
@settings(deadline=None)
@given(
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([1, 7, 8, 16, 20, 32, 64, 96, 128]),
    st.sampled_from([0, 1, 2, 17, 400]),
    st.sampled_from([6, 50]),
    st.booleans(),
    st.integers(0, 1000),
)
def test_compiled_kernels_equal_the_reference(dtype, features, pairs, coefficients, ascending, seed):
    g, x, w, c, p = system(13, pairs, coefficients, features, dtype, seed, ascending)
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-13}[dtype]
    with torch.no_grad():
        for ours, theirs in (
            (cpu.aggregate(x, w, c, p), reference.aggregate(x, w, c, p)),
            (cpu.pair_dot(g, x, c, p), reference.pair_dot(g, x, c, p)),
            (cpu.table_grad(g, x, w, p, len(c)), reference.table_grad(g, x, w, p, len(c))),
        ):
            torch.testing.assert_close(
                ours, theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max() if theirs.numel() else 0)
            )


@pytest.mark.parametrize("implementation", ["chosen", "reference"])
def test_all_derivatives(implementation, monkeypatch):
    if implementation == "reference":
        monkeypatch.setattr(convolution, "available", lambda *_: False)
    g, x, w, c, p = system()
    for function, arguments in (
        (lambda x, w, c: aggregate(x, w, c, p), (x, w, c)),
        (lambda g, x, c: pair_dot(g, x, c, p), (g, x, c)),
        (lambda g, x, w: table_grad(g, x, w, p, len(c)), (g, x, w)),
        (lambda x, w, c: torch.ops.pygschnet.aggregate(x, w, c, list(p)), (x, w, c)),
        (lambda g, x, c: torch.ops.pygschnet.pair_dot(g, x, c, list(p)), (g, x, c)),
        (lambda g, x, w: torch.ops.pygschnet.table_grad(g, x, w, list(p), len(c)), (g, x, w)),
    ):
        assert gradcheck(function, arguments)
        assert gradgradcheck(function, arguments)


def test_operators_are_registered_properly():
    g, x, w, c, p = system(features=20)
    for operator, arguments in (("aggregate", (x, w, c)), ("pair_dot", (g, x, c)), ("table_grad", (g, x, w))):
        extra = (len(c),) if operator == "table_grad" else ()
        torch.library.opcheck(getattr(torch.ops.pygschnet, operator).default, (*arguments, list(p), *extra))


def results(features=96, pairs=5000, dtype=torch.float32):
    g, x, w, c, p = system(60, pairs, 80, features, dtype)
    with torch.no_grad():
        single = [
            aggregate(x, w, c, p),
            pair_dot(g, x, c, p),
            table_grad(g, x, w, p, len(c)),
            shifted_softplus(100 * x),
        ]
        two = [cpu.aggregate_two(x, w, g, -w, c, p), cpu.table_grad_two(g, x, w, x, g, w.flip(0), p, len(c))]
        return single + two


def same(these, those):
    return all(torch.equal(a, b) for a, b in zip(these, those, strict=True))


@compiled
def test_the_same_bits_with_any_number_of_threads():
    before, expected = torch.get_num_threads(), results()
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            assert same(results(), expected) and same(results(), expected)
    finally:
        torch.set_num_threads(before)


@compiled
def test_several_threads_at_once():
    expected, found = results(), []
    threads = [threading.Thread(target=lambda: found.append(same(results(), expected))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8


@compiled
def test_in_a_forked_process():
    script = """
import os, sys, torch
sys.path.insert(0, "tests")
from test_kernels import results, same
torch.set_num_threads(2)
expected = results()
child = os.fork()
if not child:
    os._exit(0 if same(results()[:3], expected[:3]) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=120)


class Convolved(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return results()[0]


@compiled
def test_in_workers_of_a_data_loader():
    expected = results()[0]
    for batch in torch.utils.data.DataLoader(Convolved(), batch_size=2, num_workers=2):
        assert torch.equal(batch[0], expected) and torch.equal(batch[1], expected)


def test_without_a_compiler():
    script = (
        "import torch, pygschnet.kernels.cpu as cpu; print(cpu.library(torch.float32), cpu.library(torch.bfloat16))"
    )
    for compiler in ("/nowhere/cc", "false"):
        environment = {**os.environ, "CC": compiler}
        run = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120
        )
        assert run.returncode == 0 and run.stdout == "None None\n"
        assert run.stderr.count("takes several times as long") == 1 and compiler in run.stderr


def test_compiled_once(tmp_path):
    script = "import torch, pygschnet.kernels.cpu as cpu; assert cpu.library(torch.float32) is not None"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    if cpu.library(torch.float32) is None:
        pytest.skip("no C compiler")
    for _ in range(2):
        subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, env=environment, timeout=120)
        (_library,) = (tmp_path / "pygschnet/kernels").iterdir()
    tmp_path.joinpath("file").touch()  # a cache that cannot be written
    environment["XDG_CACHE_HOME"] = str(tmp_path / "file")
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, env=environment, timeout=120)


def test_gradients_that_nobody_takes_are_not_computed(monkeypatch):
    _, x, w, c, p = system()
    calls = []
    for name in ("aggregate", "pair_dot", "table_grad"):
        real = getattr(convolution, name)
        monkeypatch.setattr(convolution, name, lambda *a, real=real, name=name: calls.append(name) or real(*a))
    weights, table = w * 1.0, c * 1.0  # not leaves, as in a model
    (slopes,) = torch.autograd.grad(aggregate(x, weights, table, p).sum(), w, create_graph=True)
    assert calls == ["pair_dot"]
    calls.clear()
    slopes.square().sum().backward(inputs=[c])
    assert calls == ["table_grad"]
    calls.clear()
    torch.autograd.grad(aggregate(x, w, c, p).sum(), (x, w, c))  # leaves
    assert calls == ["aggregate", "pair_dot", "table_grad"]


# --- splines ---------------------------------------------------------------------------------------------------------


def evaluate(coefficients, distances, spacing, first, order=0):
    interval, u = locate(distances, spacing, first, len(coefficients))
    weights = spline_weights(u, order) / spacing**order
    return sum(weights[:, m] * coefficients[interval.long() + m] for m in range(TAPS))


def test_spline_weights_are_those_of_scipy():
    u = np.linspace(0, 1, 11, endpoint=False)
    for order in range(5):
        ours = spline_weights(torch.from_numpy(u), order).numpy()
        for m in range(TAPS):
            b = BSpline.basis_element(np.arange(-5 + m, 2 + m), extrapolate=False)
            np.testing.assert_allclose(ours[:, m], np.nan_to_num(b.derivative(order)(u) if order else b(u)), atol=1e-12)


def test_spline_is_that_of_scipy():
    h, first, knots = 0.1, -3, 40
    x = (first + np.arange(knots)) * h
    values = np.sin(5 * x) + x**2
    coefficients = torch.from_numpy(interpolation(knots) @ values)
    distances = torch.linspace(x[0], x[-1], 200, dtype=torch.float64)[1:-1]
    theirs = make_interp_spline(x, values, k=5)
    for order in range(4):
        expected = torch.from_numpy(theirs(distances.numpy(), order))
        torch.testing.assert_close(
            evaluate(coefficients, distances, h, first, order), expected, rtol=1e-7, atol=1e-8 * 10**order
        )


def test_spline_weights_can_be_differentiated_again_and_again():
    u = torch.tensor([0.0, 0.1, 0.5, 0.99], dtype=torch.float64, requires_grad=True)
    assert gradcheck(spline_weights, u, eps=1e-7)
    assert gradgradcheck(spline_weights, u, eps=1e-7)
    assert not spline_weights(u, 6).any()


def test_every_distance_has_an_interval():
    distances = torch.tensor([float("nan"), float("inf"), -1.0, 0.0, 1e9, 0.55])
    interval, u = locate(distances, 0.1, -2, 20)
    assert interval.dtype == torch.int32 and interval.min() >= 0 and interval.max() <= 20 - TAPS
    assert interval[-1] == 7 and u[-1] == pytest.approx(0.5, abs=1e-5)


# --- activation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 15, 16, 33, 100_000])
def test_shifted_softplus_is_exact(dtype, count):
    x = 20 * torch.randn(count, dtype=dtype, generator=torch.Generator().manual_seed(0))
    exact = torch.logaddexp(x.double(), torch.zeros((), dtype=torch.float64)) - np.log(2.0)
    y = shifted_softplus(x)
    eps = torch.finfo(dtype).eps
    assert ((y - exact).abs() <= 3 * eps * exact.abs().clamp(min=0.5)).all()


def test_shifted_softplus_of_anything():
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 0.0])
    y = shifted_softplus(x)
    assert y[0].isnan() and y[1] == float("inf") and y[5] == 0
    assert y[2] == y[4] == pytest.approx(-np.log(2.0)) and y[3] == 3e38
    transposed = torch.randn(5, 7, dtype=torch.float64).T
    assert torch.equal(shifted_softplus(transposed), shifted_softplus(transposed.contiguous()))
    assert torch.func.vmap(torch.func.grad(lambda v: shifted_softplus(v)))(torch.zeros(3)).tolist() == [0.5] * 3


def test_compiled_and_exported():
    """Out of this process, whose checks of types torch.compile cannot follow."""
    script = """
import sys, torch
sys.path.insert(0, ".")
from tests.test_kernels import system
from pygschnet.kernels import Pairs, aggregate, pair_dot, shifted_softplus, table_grad

g, x, w, c, p = system(features=16)

def everything(g, x, w, c, first, second, interval, order):
    pairs = Pairs(first, second, interval, order)
    y = shifted_softplus(aggregate(x, w, c, pairs))
    return y, pair_dot(g, y, c, pairs), table_grad(g, y, w, pairs, 11)

def gradients(function):
    return torch.autograd.grad(sum(result.square().sum() for result in function(g, x, w, c, *p)), (g, x, w, c))

compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
for ours, theirs in zip(gradients(compiled), gradients(everything), strict=True):
    torch.testing.assert_close(ours, theirs)

class Module(torch.nn.Module):
    def forward(self, *arguments):
        return everything(*arguments)

with torch.no_grad():
    program = torch.export.export(Module(), (g, x, w, c, *p))
    assert "pygschnet.aggregate" in str(program.graph)
    for ours, theirs in zip(program.module()(g, x, w, c, *p), everything(g, x, w, c, *p), strict=True):
        torch.testing.assert_close(ours, theirs)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=300)


@compiled
@pytest.mark.parametrize("form", ["none", "hard", "cosine"])
def test_weights_of_pairs(form):
    """The kernel against the steps that it replaces, beyond the cutoff and outside the table too."""
    cutoff = Cutoff(2.0, form)
    distances = torch.cat([torch.linspace(0.3, 2.6, 300), torch.tensor([2.0, 0.5])]).double().requires_grad_()
    interval, u = locate(distances, 0.05, 4, 40)
    expected = spline_weights(u) * cutoff(distances).unsqueeze(-1)
    scales = torch.tensor([0.05, torch.inf if form == "none" else 2.0], dtype=torch.float64)
    weights, found = cpu.PairWeights.apply(distances, scales, 4, 40, form == "cosine", torch.float64)
    assert torch.equal(found, interval)
    torch.testing.assert_close(weights, expected, rtol=1e-11, atol=1e-13)
    towards = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.autograd.grad(w, distances, towards)[0] for w in (weights, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    strange = torch.tensor([float("nan"), float("inf"), -1.0])
    weights, found = cpu.PairWeights.apply(strange, scales, 4, 40, form == "cosine", torch.float32)
    assert weights[0].isnan().all() and found.min() >= 0 and found.max() <= 34
