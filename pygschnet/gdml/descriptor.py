"""The descriptor of a molecule: its inverse distances."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def atom_pairs(atoms: int) -> Int[Tensor, "2 pairs"]:
    """All pairs i > j of atoms, row by row."""
    return torch.tril_indices(atoms, atoms, offset=-1)


def descriptors(pos: Float[Tensor, "frames atoms 3"]) -> Float[Tensor, "frames pairs"]:
    """D_k = 1/d_ij of all pairs k = (i, j), in 1/Å.

    Args:
        pos: positions in Å.
    """
    i, j = atom_pairs(pos.shape[1]).to(pos.device)
    return 1 / torch.linalg.vector_norm(pos[:, i] - pos[:, j], dim=-1)


def jacobians(pos: Float[Tensor, "frames atoms 3"]) -> Float[Tensor, "frames pairs coordinates"]:
    """J: ∂D_k/∂r_i = −(r_i − r_j)/d_ij³ and ∂D_k/∂r_j = (r_i − r_j)/d_ij³, in 1/Å².

    Args:
        pos: positions in Å.
    """
    frames, atoms, _ = pos.shape
    i, j = atom_pairs(atoms)
    vectors = pos[:, i] - pos[:, j]
    rows = vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True) ** 3
    result = pos.new_zeros(frames, len(i), atoms, 3)
    pairs = torch.arange(len(i))
    result[:, pairs, i], result[:, pairs, j] = -rows, rows
    return result.flatten(2)


def permuted_pairs(permutations: Int[Tensor, "permutations atoms"]) -> Int[Tensor, "permutations pairs"]:
    """Where D(x_π)_k stands in D(x): the pair (π_i, π_j) of every pair k = (i, j).

    Args:
        permutations: of the atoms; atom i of the permuted molecule is atom π_i.
    """
    i, j = atom_pairs(permutations.shape[1])
    number = torch.zeros(2 * [permutations.shape[1]], dtype=torch.long)
    number[i, j] = number[j, i] = torch.arange(len(i))
    return number[permutations[:, i], permutations[:, j]]
