"""Versions and devices."""

import os
import platform
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement

from pygschnet.doctor.problems import Problem
from pygschnet.graph import torch_cluster
from pygschnet.training.memory import device_megabytes

OPTIONAL = {
    "torch-cluster": "vesin gives the same edges",
    "torch-scatter": "PyTorch sums as well",
    "triton": "only GPUs need it",
    "h5py": "only HDF5 files need it",
}
"""Packages that may be missing, and what that means."""

SHOWN = ("torch", "torch-geometric", "pytorch-lightning", "ase", "vesin", "safetensors", "numpy")


def versions() -> tuple[dict[str, str], list[Problem]]:
    """Versions of what is installed, this package first; and what does not fit together."""
    here = Path(__file__).parents[1]
    found = {"pygschnet": f"{version('pygschnet')} in {here}", "python": platform.python_version()}
    found |= {name: installed(name) or "not installed" for name in SHOWN}
    cuda = torch.version.cuda
    found["torch"] += f", built for CUDA {cuda}" if cuda else ", built without CUDA"
    found |= {name: installed(name) or f"not installed: {why}" for name, why in OPTIONAL.items()}
    problems = [Problem(text, True) for text in unmet(requires("pygschnet") or [])]
    if installed("torch-cluster") and torch_cluster is None:
        why = f"torch-cluster was not built for torch {torch.__version__}, so vesin finds the edges"
        problems.append(Problem(f"{why}: pip install --force-reinstall --no-build-isolation torch-cluster", False))
    return found, problems


def unmet(requirements: list[str]) -> list[str]:
    """Which requirements are not met, with the remedy.

    Args:
        requirements: as packages state them, such as "torch>=2.6".
    """
    texts = []
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = installed(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            what = f"{requirement.name} {found}" if found else f"{requirement.name}, which is not installed,"
            texts.append(f"{what} does not meet {requirement}: pip install '{requirement}'")
    return texts


def installed(name: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def devices() -> tuple[dict[str, Any], list[Problem]]:
    """The processor and the GPUs, with their memory in MB; and a GPU that torch cannot use."""
    cpu = torch.device("cpu")
    facts: dict[str, Any] = {
        "cpu": {
            "name": processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "threads": torch.get_num_threads(),
            "megabytes": device_megabytes(cpu),
        },
        "gpus": [
            {"name": torch.cuda.get_device_name(k), "megabytes": device_megabytes(torch.device("cuda", k))}
            for k in range(torch.cuda.device_count())
        ],
    }
    problems = []
    if Path("/dev/nvidia0").exists() and not torch.cuda.is_available():
        why = "its driver does not suit it" if torch.version.cuda else "it was built without CUDA"
        remedy = "update the driver" if torch.version.cuda else "install torch from PyPI, which brings CUDA"
        problems.append(Problem(f"there is an NVIDIA GPU, but torch cannot use it, as {why}: {remedy}", False))
    return facts, problems


def processor() -> str:
    """What the maker calls the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
