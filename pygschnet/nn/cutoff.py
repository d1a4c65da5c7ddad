"""Cutoff functions f(d): 1 at d = 0 and exactly 0 at and beyond the cutoff.

They multiply the filter, never the radial basis: the filter network's biases would survive there.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Form = Literal["none", "hard", "cosine", "polynomial", "mollifier"]


def no_cutoff(distances: Float[Tensor, "edges"], cutoff: float | None = None) -> Float[Tensor, "edges"]:
    """f(d) = 1: every edge counts in full (arXiv:1706.08566, which has no cutoff)."""
    return torch.ones_like(distances)


def hard_cutoff(distances: Float[Tensor, "edges"], cutoff: float) -> Float[Tensor, "edges"]:
    """f(d) = 1 for d < r_c: the energy jumps as an atom crosses r_c."""
    return (distances < cutoff).to(distances)


def cosine_cutoff(distances: Float[Tensor, "edges"], cutoff: float) -> Float[Tensor, "edges"]:
    """f(d) = ½(cos(πd/r_c) + 1): continuous forces (C¹; f″ jumps by π²/(2r_c²)).

    Source: Behler, J. Chem. Phys. 134, 074106 (2011).
    """
    return 0.5 * (torch.cos(distances * (math.pi / cutoff)) + 1.0) * (distances < cutoff)


def polynomial_cutoff(distances: Float[Tensor, "edges"], cutoff: float) -> Float[Tensor, "edges"]:
    """f(d) = 1 − 6x⁵ + 15x⁴ − 10x³ with x = d/r_c: continuous second derivatives (C²).

    Source: PhysNet, arXiv:1902.08408.
    """
    x = distances / cutoff
    return (1.0 + x**3 * (-10.0 + x * (15.0 - 6.0 * x))) * (distances < cutoff)


def mollifier_cutoff(distances: Float[Tensor, "edges"], cutoff: float) -> Float[Tensor, "edges"]:
    """f(d) = exp(1 − 1/(1 − x²)) with x = d/r_c: smooth to any order."""
    inside = distances < cutoff
    x = torch.where(inside, distances / cutoff, 0.0)  # masked before the division, so that no gradient is 0/0
    return torch.exp(1.0 - 1.0 / (1.0 - x**2).clamp_min(torch.finfo(x.dtype).eps)) * inside


def cosine_slope(distances: Float[Tensor, "edges"], cutoff: float) -> Float[Tensor, "edges"]:
    """f′(d) = −π/(2r_c) sin(πd/r_c)."""
    return -0.5 * math.pi / cutoff * torch.sin(distances * (math.pi / cutoff)) * (distances < cutoff)


def polynomial_slope(distances: Float[Tensor, "edges"], cutoff: float) -> Float[Tensor, "edges"]:
    """f′(d) = −30 x² (1 − x)² / r_c with x = d/r_c."""
    x = distances / cutoff
    return -30.0 / cutoff * x**2 * (1.0 - x) ** 2 * (distances < cutoff)


def mollifier_slope(distances: Float[Tensor, "edges"], cutoff: float) -> Float[Tensor, "edges"]:
    """f′(d) = −f(d) 2x / (r_c (1 − x²)²) with x = d/r_c."""
    x = torch.where(distances < cutoff, distances / cutoff, 0.0)
    rest = (1.0 - x**2).clamp_min(torch.finfo(x.dtype).eps)
    return -mollifier_cutoff(distances, cutoff) * 2.0 * x / (cutoff * rest**2)


FORMS: dict[str, Callable[..., Tensor]] = {
    "none": no_cutoff,
    "hard": hard_cutoff,
    "cosine": cosine_cutoff,
    "polynomial": polynomial_cutoff,
    "mollifier": mollifier_cutoff,
}

SLOPES: dict[str, Callable[..., Tensor]] = {
    "none": lambda distances, cutoff: torch.zeros_like(distances),
    "hard": lambda distances, cutoff: torch.zeros_like(distances),
    "cosine": cosine_slope,
    "polynomial": polynomial_slope,
    "mollifier": mollifier_slope,
}
"""f′(d) of each, for where there is no autograd."""


class Cutoff(nn.Module):
    """A cutoff function of a chosen form and radius.

    Args:
        cutoff: radius r_c in Å; may be left out for the form "none" only.
        form: "none", "hard", "cosine", "polynomial" or "mollifier".

    Raises:
        ValueError: for an unknown form, or a missing or non-positive radius.
    """

    def __init__(self, cutoff: float | None = None, form: Form = "cosine"):
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"unknown cutoff function {form!r}: use one of {', '.join(FORMS)}")
        if (form != "none" and cutoff is None) or (cutoff is not None and not cutoff > 0):
            raise ValueError(f"the cutoff function {form!r} needs a radius above 0 Å, got {cutoff}")
        self.cutoff, self.form = cutoff, form

    def forward(self, distances: Float[Tensor, "edges"]) -> Float[Tensor, "edges"]:
        return FORMS[self.form](distances, self.cutoff)
