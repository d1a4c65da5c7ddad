"""Training: one linear system for every σ, of which the validation forces choose."""

import math
import time
import warnings
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from pygschnet.gdml.descriptor import descriptors, jacobians
from pygschnet.gdml.frames import Frames
from pygschnet.gdml.kernel import assemble
from pygschnet.gdml.solve import solve


def train(
    frames: Frames,
    permutations: Int[Tensor, "permutations atoms"],
    sigmas: Sequence[float],
    regularisation: float,
    validate: Callable[[Tensor, float], float] | None,
) -> tuple[Float[Tensor, "frames pairs"], float]:
    """v_j = J_j α_j, where (K + λI) α = y, for the best σ, in eV Å; and that σ.

    The forces y are in units of their standard deviation, and v is scaled back.

    Args:
        frames: the training data.
        permutations: a group of them, or the identity alone.
        sigmas: σ in 1/Å, tried from the smallest on until the error rises.
        regularisation: λ.
        validate: gives the error of the forces with some v and σ; None to take the first σ.
    """
    points, slopes = descriptors(frames.pos), jacobians(frames.pos)
    scale = float(frames.forces.std(correction=0)) or 1.0
    matrix = points.new_empty(2 * [frames.pos.numel()])  # the same for every σ

    def directions_of(sigma: float) -> Tensor:
        assemble(matrix, points, slopes, permutations, sigma)
        alpha = solve(matrix, frames.forces.flatten() / scale, regularisation)
        return scale * (slopes @ alpha.view(len(points), -1, 1)).squeeze(-1)

    if validate is None:
        return directions_of(sigmas[0]), sigmas[0]
    ascending, least, best = sorted(sigmas), math.inf, (torch.zeros_like(points), sigmas[0])
    for sigma in (progress := tqdm(ascending, "σ of GDML", leave=False)):
        start = time.perf_counter()
        directions = directions_of(sigma)
        error = validate(directions, sigma)
        seconds = time.perf_counter() - start
        progress.write(f"σ = {sigma:g} 1/Å: RMSE of the validation forces {error:.5f} eV/Å, {seconds:.0f} s")
        if not error < least:
            break
        least, best = error, (directions, sigma)
    if best[1] in (ascending[0], ascending[-1]):
        warnings.warn(
            f"of the σ from {ascending[0]:g} to {ascending[-1]:g} 1/Å the best, {best[1]:g}, is at the end: "
            "there may be better ones beyond, give more sigmas",
            stacklevel=3,
        )
    return best
