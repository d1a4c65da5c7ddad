"""Solving (K + λI) α = y in the memory of one matrix."""

import os
import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pygschnet.errors import InputError

GIGABYTE = 1e9

BLOCK = 512
"""Rows and columns that are decomposed at a time."""


def free_gigabytes() -> float:
    """Memory that can be had without swapping, in GB (10⁹ bytes)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        return kilobytes * 1024 / GIGABYTE
    except (OSError, StopIteration):  # not Linux: nobody says what is free, only what there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIGABYTE


def needed_gigabytes(frames: int, atoms: int, permutations: int) -> float:
    """Memory that training takes, in GB: (3nN)² doubles, and a few times the blocks of one frame with all others.

    Args:
        frames: N.
        atoms: n.
        permutations: how many.
    """
    pairs, width = atoms * (atoms - 1) // 2, 3 * atoms
    blocks = frames * (3 * pairs * width + 2 * width**2 + 4 * permutations * (pairs + width))
    return 8 * ((frames * width) ** 2 + max(blocks, 4 * BLOCK * frames * width)) / GIGABYTE


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


def solve(matrix: Float[Tensor, "size size"], y: Float[Tensor, "size"], regularisation: float) -> Float[Tensor, "size"]:
    """α of (K + λI) α = y, by Cholesky's decomposition in place.

    Where rounding has made K + λI indefinite, it is tried again with a larger λ, with a warning: the one triangle of K
    that the decomposition does not touch restores the other.

    Args:
        matrix: K, symmetric; destroyed.
        y: the right-hand side.
        regularisation: λ.

    Raises:
        InputError: if that does not help either.
    """
    blocks = [slice(first, first + BLOCK) for first in range(0, len(matrix), BLOCK)]
    kept = [matrix[block, block].clone() for block in blocks]
    least = 1e-16 * float(matrix.trace())  # about what rounding makes of an eigenvalue that is 0
    for attempt in (regularisation, *(max(regularisation, least) * 10.0**k for k in range(1, 5))):
        for block, values in zip(blocks, kept, strict=True):
            matrix[block, block] = values
            matrix[block.stop :, block] = matrix[block, block.stop :].mT
        matrix.diagonal().add_(attempt)
        if cholesky(matrix):
            if attempt != regularisation:
                warnings.warn(
                    f"with a regularisation of {regularisation:g} the kernel matrix is not positive definite to "
                    f"rounding: {attempt:.1g} was taken instead",
                    stacklevel=2,
                )
            half = torch.linalg.solve_triangular(matrix, y.unsqueeze(1), upper=False)
            return torch.linalg.solve_triangular(matrix.mT, half, upper=True).squeeze(1)
    raise InputError(
        f"the kernel matrix cannot be decomposed even with a regularisation of {attempt:.1g}: look for frames that are "
        "equal or far off, or set a larger regularisation"
    )


def cholesky(matrix: Float[Tensor, "size size"]) -> bool:
    """Whether it is positive definite; if so L of L Lᵀ takes the place of its lower triangle.

    Block by block, with products of matrices for all but the blocks on the diagonal: LAPACK as SciPy brings it broke
    down at 25,650 rows, and torch's copies the matrix.

    Args:
        matrix: symmetric; of its upper triangle only the blocks on the diagonal are changed.
    """
    for first in range(0, len(matrix), BLOCK):
        block, last = slice(first, first + BLOCK), first + BLOCK
        factor, info = torch.linalg.cholesky_ex(matrix[block, block])
        if info:
            return False
        matrix[block, block] = factor
        panel = torch.linalg.solve_triangular(factor, matrix[last:, block].mT, upper=False).mT
        matrix[last:, block] = panel
        for start in range(last, len(matrix), BLOCK):
            rows = panel[start - last :]
            matrix[start:, start : start + BLOCK].addmm_(rows, rows[:BLOCK].mT, alpha=-1)
    return True
