"""The filters of a SchNet: as curves, and as the cuts through space of the paper's Fig. 3."""

import copy
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from pygschnet.errors import InputError
from pygschnet.model import AtomisticModel
from pygschnet.representations import SchNet


class FilterCuts(NamedTuple):
    """Filters in a plane through the atom.

    Attributes:
        x: coordinates of the points along either axis, Å, the atom being at 0.
        cuts: W_f(√(x² + y²)) of each block.
        bounded: whether the filter networks end with an ssp, so that no filter is below −ln 2.
    """

    x: Float[np.ndarray, "points"]
    cuts: Float[np.ndarray, "blocks filters points points"]
    bounded: bool


def filter_curves(
    model: AtomisticModel, distances: Float[np.ndarray, "distances"]
) -> Float[np.ndarray, "blocks distances filters"]:
    """W(d) of each interaction block, the cutoff function included, evaluated in float64.

    Args:
        model: a SchNet.
        distances: d, in Å.

    Raises:
        InputError: for a representation without filters, and for distances that are negative or not finite.

    Source: arXiv:1706.08566, section 4.1.
    """
    schnet = _schnet(model)
    if not (np.isfinite(distances).all() and (distances >= 0).all()):
        raise InputError("filters are functions of a distance: give finite numbers of Å that are not negative")
    exact = copy.deepcopy(schnet).cpu().double()
    with torch.no_grad():
        filters = list(exact.filters_at(torch.from_numpy(distances.astype(np.float64))))
    return torch.stack(filters).numpy()


def filter_cuts(model: AtomisticModel, extent: float = 10.0, points: int = 101) -> FilterCuts:
    """The filters of each block in a square around the atom: W_f(√(x² + y²)).

    Args:
        model: a SchNet.
        extent: length of the square's sides, in Å.
        points: along each side.

    Raises:
        InputError: for a representation without filters, or a square without size or points.

    Source: arXiv:1706.08566, Fig. 3.
    """
    bounded = _schnet(model).filter_final_activation
    if not (extent > 0 and points > 1):
        raise InputError(f"a cut needs a size above 0 Å and two points or more, got {extent} Å and {points}")
    x = (np.arange(points) - (points - 1) / 2) * (extent / (points - 1))  # the same on both sides, to the last digit
    curves = filter_curves(model, np.hypot(x, x[:, None]).ravel())
    cuts = curves.transpose(0, 2, 1)
    return FilterCuts(x, cuts.reshape(*cuts.shape[:2], points, points), bounded)


def _schnet(model: AtomisticModel) -> SchNet:
    if not isinstance(model.representation, SchNet):
        raise InputError(f"{type(model.representation).__name__} has no filters: only SchNet has")
    return model.representation
