"""The processes of a parallel training: which one this is, sums over all of them, and lists put together again."""

from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any

import torch.distributed as dist
from torch import Tensor

LOST = ("gloo", "NCCL", "Connection", "Timed out", "timed out", "ocket")
"""Words in what torch.distributed says when another process has gone."""


def rank_and_number() -> tuple[int, int]:
    """Which process this is, counted from 0, and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def sum_over_ranks(numbers: Tensor) -> Tensor:
    """The sum of a tensor over all processes, on its device; nothing is waited for on a GPU."""
    if rank_and_number()[1] > 1:
        dist.all_reduce(numbers)
    return numbers


def collect(items: Sequence[Any]) -> list[list[Any]]:
    """What each process has, known to all, in the order of the processes."""
    ranks = rank_and_number()[1]
    everything: list[Any] = [items] * ranks
    if ranks > 1:
        dist.all_gather_object(everything, items)
    return everything


def interleave(parts: Sequence[Sequence[Any]]) -> list[Any]:
    """Items that were dealt out like cards, in their old order."""
    nothing = object()
    return [item for item in chain.from_iterable(zip_longest(*parts, fillvalue=nothing)) if item is not nothing]


def lost_contact(error: BaseException) -> bool:
    """Whether an error comes from another process having gone."""
    return rank_and_number()[1] > 1 and isinstance(error, RuntimeError) and any(word in str(error) for word in LOST)
