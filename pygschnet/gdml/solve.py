"""Solving (K + λI) α = y in the memory of one matrix."""

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import lapack
from torch import Tensor

from pygschnet.errors import InputError

GIGABYTE = 1e9


def free_gigabytes() -> float:
    """Memory that can be had without swapping, in GB (10⁹ bytes)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        return kilobytes * 1024 / GIGABYTE
    except (OSError, StopIteration):  # not Linux: nobody says what is free, only what there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIGABYTE


def needed_gigabytes(frames: int, atoms: int, permutations: int) -> float:
    """Memory that training takes, in GB: (3nN)² doubles, and the blocks of one frame with all others.

    Args:
        frames: N.
        atoms: n.
        permutations: how many.
    """
    pairs, width = atoms * (atoms - 1) // 2, 3 * atoms
    blocks = frames * (3 * pairs * width + 2 * width**2 + 4 * permutations * (pairs + width))
    return 8 * ((frames * width) ** 2 + blocks) / GIGABYTE


def check_memory(frames: int, atoms: int, permutations: int, limit: float | None) -> None:
    """Refuse what would not fit.

    Args:
        frames: N.
        atoms: n.
        permutations: how many.
        limit: in GB; None for what is free.

    Raises:
        InputError: with the memory needed and the number of frames that would fit.
    """
    allowed = free_gigabytes() if limit is None else limit
    if (needed := needed_gigabytes(frames, atoms, permutations)) > allowed:
        low, high = 0, frames
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if needed_gigabytes(middle, atoms, permutations) <= allowed else (low, middle)
        what = "are free" if limit is None else "are allowed by max_gigabytes"
        raise InputError(
            f"{frames} frames of {atoms} atoms take {needed:.3g} GB, of which {allowed:.3g} GB {what}: train on {low} "
            "frames at most, or take a model that is learnt by descent, such as SchNet"
        )


def empty_matrix(size: int) -> Float[Tensor, "size size"]:
    """Room for a matrix that LAPACK can solve in place."""
    return torch.from_numpy(np.empty((size, size)))


def solve(matrix: Float[Tensor, "size size"], y: Float[Tensor, "size"], regularisation: float) -> Float[Tensor, "size"]:
    """α of (K + λI) α = y, by Cholesky's decomposition of the one triangle of K, in place.

    Where rounding has made K + λI indefinite, the other triangle is decomposed as L D Lᵀ (Bunch and Kaufman), with
    a warning.

    Args:
        matrix: K, symmetric; destroyed.
        y: the right-hand side.
        regularisation: λ.

    Raises:
        InputError: if the matrix is singular, or holds numbers that are not finite.
    """
    array = matrix.numpy().T  # in Fortran's order: nothing is copied
    matrix.diagonal().add_(regularisation)
    diagonal = matrix.diagonal().clone()
    _, info = lapack.dpotrf(array, lower=1, clean=0, overwrite_a=1)
    if info == 0:
        return torch.from_numpy(lapack.dpotrs(array, y.numpy(), lower=1)[0])
    warnings.warn(
        f"K + {regularisation}·I is not positive definite to rounding: solved by LDLᵀ in place of Cholesky's "
        "decomposition. A larger regularisation, or fewer frames that are nearly equal, would avoid this",
        stacklevel=2,
    )
    matrix.diagonal().copy_(diagonal)
    workspace = max(1, int(lapack.dsytrf_lwork(len(y), lower=0)[0]))
    factors, pivots, info = lapack.dsytrf(array, lower=0, lwork=workspace, overwrite_a=1)
    if info != 0:
        raise InputError(
            f"K + {regularisation}·I cannot be solved (LAPACK's dsytrf says {info}): "
            "set regularisation above 0, and look for frames that are equal or not finite"
        )
    return torch.from_numpy(lapack.dsytrs(factors, pivots, y.numpy(), lower=0)[0])
