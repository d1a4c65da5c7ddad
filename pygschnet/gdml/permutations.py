"""The permutations of equivalent atoms that the training frames show."""

import warnings
from collections import Counter

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import minimum_spanning_tree

LARGEST = 100
"""Permutations from which on a group is not believed."""


def recover(
    z: Int[np.ndarray, "atoms"], pos: Float[np.ndarray, "frames atoms 3"]
) -> Int[np.ndarray, "permutations atoms"]:
    """The group of permutations that carry training frames into each other, the identity first.

    Every two frames are matched; the matches along the minimum spanning tree of what remains different are kept, being
    consistent with each other; products of them complete the group.

    Args:
        z: atomic numbers.
        pos: positions in Å.

    Source: Chmiela et al., Nat. Commun. 9, 3887 (2018).
    """
    found, costs = match(z, pos)
    tree = minimum_spanning_tree(costs)
    edges = zip(*(ends.tolist() for ends in tree.nonzero()), strict=True)
    seen = Counter(found[edge] for edge in edges if edge in found)
    group = {tuple(range(len(z)))}
    for permutation, _ in seen.most_common():
        larger = closure(group | {permutation})
        if larger is None:
            warnings.warn(
                f"the permutation {list(permutation)} of the atoms is left out: with it there would be more than "
                f"{LARGEST}, as when the training frames have atoms in different orders",
                stacklevel=2,
            )
        else:
            group = larger
    return np.array(sorted(group))


def match(
    z: Int[np.ndarray, "atoms"], pos: Float[np.ndarray, "frames atoms 3"]
) -> tuple[dict[tuple[int, int], tuple[int, ...]], Float[np.ndarray, "frames frames"]]:
    """For every two frames i < j the permutation of j's atoms that makes its distances most like i's.

    Atoms correspond where the eigenvectors of the matrices of distances are alike but for their signs; the best
    assignment of all atoms, within elements, is kept if the distances differ less with it than without.

    Args:
        z: atomic numbers.
        pos: positions in Å.

    Returns:
        The permutations that are not the identity, by frames; and what remains different, in Å, above the diagonal.
    """
    frames = len(pos)
    distances = np.linalg.norm(pos[:, :, None] - pos[:, None], axis=-1)
    vectors = np.abs(np.linalg.eigh(distances)[1])
    unlike = z[:, None] != z
    found, costs = {}, np.zeros((frames, frames))
    for i in range(frames - 1):
        likeness = vectors[i] @ vectors[i + 1 :].swapaxes(1, 2)
        penalties = np.where(unlike, likeness.max((1, 2), keepdims=True), 0.0)
        orders = np.array([linear_sum_assignment(cost)[1] for cost in penalties - likeness])
        others = distances[i + 1 :]
        before = np.linalg.norm(others - distances[i], axis=(1, 2))
        rows = np.arange(len(others))[:, None, None]
        after = np.linalg.norm(others[rows, orders[:, :, None], orders[:, None]] - distances[i], axis=(1, 2))
        better = (after < before) & ~np.isclose(after, before)
        costs[i, i + 1 :] = np.where(better, after, before)
        for k in np.flatnonzero(better):
            found[i, i + 1 + int(k)] = tuple(orders[k].tolist())
    return found, costs


def closure(permutations: set[tuple[int, ...]]) -> set[tuple[int, ...]] | None:
    """All products of permutations; None if there are more than `LARGEST`.

    Args:
        permutations: that generate the group.
    """
    group = newest = set(permutations)
    while newest:
        newest = {tuple(first[k] for k in second) for first in newest for second in permutations} - group
        group = group | newest
        if len(group) > LARGEST:
            return None
    return group
