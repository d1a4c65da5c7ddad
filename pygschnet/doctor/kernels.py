"""Which compiled kernels there are, and whether they compute what plain PyTorch does: each is run and compared."""

import copy
import math
import os
import shutil
import warnings
from typing import Any

import ase.build
import torch
import torch.nn.functional as F
from torch import Tensor

from pygschnet.doctor.problems import Problem
from pygschnet.graph import RadiusGraph, from_atoms, torch_cluster
from pygschnet.heads import Atomwise
from pygschnet.kernels import available, cpu, cuda, make_pairs, reference, shifted_softplus
from pygschnet.kernels.convolution import kernels
from pygschnet.kernels.spline import locate, spline_weights
from pygschnet.model import AtomisticModel
from pygschnet.representations import SchNet

ALLOWED = {torch.float32: 1e-5, torch.float64: 1e-12}
"""How far results may be off, relative to the largest."""

CUTOFF = 5.0  # Å
KNOTS = 24


def check_kernels() -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """State of the kernels by device and precision: where they come from, or why not, and how far each is off."""
    facts: dict[str, dict[str, Any]] = {}
    problems = []
    for device in ["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]:
        for dtype in (torch.float32, torch.float64):
            name = f"{device} {str(dtype).removeprefix('torch.')}"
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                (cpu.library if device == "cpu" else cuda.available).cache_clear()  # so that it says why not
                there = available(torch.device(device), dtype)
            if not there:
                why = "; ".join(str(one.message).partition("long: ")[2] or str(one.message) for one in said).rstrip(
                    ": "
                )
                why = why or "Triton is not installed"
                facts[name] = {"by": "plain PyTorch", "why": why}
                remedy = "install Triton" if device != "cpu" else "install one (gcc or clang), or name it in CC"
                problems.append(Problem(f"no compiled kernels on {device}, so it is slow ({why}): {remedy}", False))
                continue
            facts[name] = {"by": f"C, {_compiler()}" if device == "cpu" else "Triton"}
            try:
                facts[name]["off"] = deviations(torch.device(device), dtype)
            except Exception as error:  # whatever a broken kernel makes of it
                problems.append(
                    Problem(f"the kernels on {name} fail: {type(error).__name__}: {error}: {_remedy()}", True)
                )
                continue
            wrong = [kernel for kernel, off in facts[name]["off"].items() if not off <= ALLOWED[dtype]]
            if wrong:
                text = f"{', '.join(wrong)} on {name} gives wrong numbers, off by {facts[name]['off'][wrong[0]]:.1e}"
                problems.append(Problem(f"{text}: {_remedy()}", True))
    return facts, list(dict.fromkeys(problems))


def deviations(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """How far each kernel is from plain PyTorch on a small input, relative to the largest number that comes out.

    Args:
        device: of the kernels.
        dtype: float32 or float64; what they are compared with is computed in float64.
    """
    generator = torch.Generator().manual_seed(0)
    atoms, pairs, features = 9, 60, 20
    first, second = torch.randint(atoms, (2, pairs), generator=generator)
    interval = torch.randint(KNOTS - 5, (pairs,), generator=generator)
    shapes = (atoms, features), (atoms, features), (pairs, 6), (KNOTS, features)
    g, x, weights, table = (torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
    plain = make_pairs(first, second, interval, atoms, KNOTS)[:3]
    exact = [tensor.double() for tensor in (g, x, weights, table)]
    wanted = {
        "aggregate": reference.aggregate(exact[1], exact[2], exact[3], plain),
        "pair_dot": reference.pair_dot(exact[0], exact[1], exact[3], plain),
        "table_grad": reference.table_grad(exact[0], exact[1], exact[2], plain, KNOTS),
    }
    g, x, weights, table = (tensor.to(device) for tensor in (g, x, weights, table))
    moved = make_pairs(first.to(device), second.to(device), interval.to(device), atoms, KNOTS)
    module = kernels(x)
    found = {
        "aggregate": module.aggregate(x, weights, table, moved),
        "pair_dot": module.pair_dot(g, x, table, moved),
        "table_grad": module.table_grad(g, x, weights, moved, KNOTS),
    }
    if device.type == "cpu":
        found["ssp"], wanted["ssp"] = shifted_softplus(x), F.softplus(exact[1], threshold=40.0) - math.log(2.0)
        found["splines"], wanted["splines"] = _splines(dtype, generator)
        if dtype == torch.float32:
            found["molecule"], wanted["molecule"] = _molecule()
    return {name: _off(found[name], wanted[name]) for name in found}


def check_edges() -> tuple[str, list[Problem]]:
    """What finds the edges of molecules; and if there are two that could, whether they agree on one."""
    if torch_cluster is None:
        return "vesin", []
    data = from_atoms(ase.build.molecule("C6H6"))
    edges = [RadiusGraph(3.0, backend)(copy.copy(data)).edge_index for backend in ("torch_cluster", "vesin")]
    if torch.equal(*edges):
        return "torch-cluster, which agrees with vesin", []
    remedy = "--data.edges vesin, and build torch-cluster anew"
    return "torch-cluster", [Problem(f"torch-cluster and vesin find different edges: {remedy}", True)]


def _splines(dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weights of a cosine cutoff and their derivative, by the kernel and by plain PyTorch."""
    distances = CUTOFF * torch.rand(40, generator=generator, dtype=torch.float64)
    scales, spacing = torch.tensor([0.25, CUTOFF], dtype=torch.float64), 0.25
    given = distances.clone().requires_grad_()
    weights, interval = cpu.PairWeights.apply(given, scales, 0, KNOTS, True, dtype)
    (slope,) = torch.autograd.grad(weights.double().sum(1).square().sum(), given)
    exact = distances.clone().requires_grad_()
    at, u = locate(exact, spacing, 0, KNOTS)
    envelope = 0.5 * (torch.cos(exact * (math.pi / CUTOFF)) + 1.0)
    plain = spline_weights(u) * envelope[:, None]
    (plain_slope,) = torch.autograd.grad(plain.sum(1).square().sum(), exact)
    parts = (weights.detach(), plain.detach()), (interval, at), (slope, plain_slope)
    found, wanted = (torch.cat([part[k].double().flatten() for part in parts]) for k in (0, 1))
    return found, wanted


def _molecule() -> tuple[Tensor, Tensor]:
    """Forces on ethanol by the one call for small molecules, and in float64 pair by pair."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        representation, plain = (
            SchNet(32, 32, 2, 25, 0.0, CUTOFF, None, CUTOFF, "cosine", filters_from=way) for way in ("auto", "pairs")
        )
        model = AtomisticModel(representation, Atomwise(32)).eval()
    exact = AtomisticModel(plain, Atomwise(32)).double().eval()
    exact.load_state_dict(model.state_dict())
    data = RadiusGraph(CUTOFF, "vesin")(from_atoms(ase.build.molecule("CH3CH2OH")))
    with torch.no_grad():
        return model(data).forces, exact(data).forces


def _off(found: Tensor, wanted: Tensor) -> float:
    wanted = wanted.double().cpu()
    return float((found.detach().double().cpu() - wanted).abs().max() / wanted.abs().max())


def _compiler() -> str:
    command = os.environ.get("CC", "cc").split()[0]
    return os.path.realpath(shutil.which(command) or command)


def _remedy() -> str:
    return "delete ~/.cache/pygschnet/kernels, so that they are compiled anew, or update the compiler or Triton"
