"""Which molecules form a batch, which of them belong to which process, and in which order they come."""

import heapq
from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data.distributed import DistributedSampler

from pygschnet.errors import InputError
from pygschnet.ranks import rank_and_number


class BatchSampler(DistributedSampler[list[int]]):
    """Batches of positions in a selection; nothing is dropped, and every epoch has the same number of batches.

    The order of an epoch follows from seed and epoch alone, so it is the same in all processes, and the same with any
    number of them. Of several processes each gets a share of every batch when training, of about equal cost; in
    evaluation the batches are dealt out, none is repeated, and a process without any gets an empty one.

    Being a `DistributedSampler` in name only keeps Lightning from replacing it by one that pads.

    Args:
        sizes: what each molecule takes of the budget, for instance its atoms; ones for a fixed number of molecules.
        budget: the most that the molecules of a batch, of all processes together, may take.
        shuffle: draw a new order in every epoch.
        seed: of the orders.
        costs: of each molecule, by which batches are shared out; if null, whole batches are dealt out.
        position: tells how many batches have been trained on, of all epochs; the next pass goes on there. If null
            every pass is an epoch of its own, the next one unless `set_epoch` says otherwise.

    Raises:
        InputError: if a molecule alone exceeds the budget.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        budget: int,
        shuffle: bool = False,
        seed: int = 0,
        costs: np.ndarray | None = None,
        position: Callable[[], int] | None = None,
    ):
        if len(sizes) and sizes.max() > budget:
            raise InputError(f"a molecule has the size {sizes.max()}, which does not fit in a batch of {budget}")
        self.sizes, self.budget, self.shuffle, self.seed, self.epoch = sizes, budget, shuffle, seed, 0
        self.costs, self.position = costs, position
        batches = len(self._fill(self._order(0, 0)))
        uneven = shuffle and len(sizes) > 0 and sizes.min() < sizes.max()
        # orders fill their batches a little better or worse: a few to spare make the number of batches the same
        self.batches = min(len(sizes), batches + batches // 50 + 1) if uneven else batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the order, where no `position` does; Lightning calls this at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        rank, ranks = rank_and_number()
        if self.costs is not None or self.batches == 0:
            return self.batches
        return max(1, len(range(rank, self.batches, ranks)))

    def __iter__(self) -> Iterator[list[int]]:
        epoch, first = self.epoch, 0  # now, not when the first batch is asked for
        if self.position is not None:
            epoch, first = divmod(self.position(), max(1, self.batches))
        self.epoch = epoch + 1
        return self._of_this_rank(epoch, first)

    def _of_this_rank(self, epoch: int, first: int) -> Iterator[list[int]]:
        rank, ranks = rank_and_number()
        order, bounds = self._batches(epoch)
        whole = self.costs is None
        numbers = range(rank, len(bounds), ranks) if whole else range(first, len(bounds))
        for number in numbers:
            batch = order[bounds[number - 1] if number else 0 : bounds[number]]
            if self.costs is not None and ranks > 1:
                batch = batch[share(self.costs[batch], ranks)[rank]]
            yield batch.tolist()
        if whole and len(bounds) > 0 and len(numbers) == 0:
            yield []

    def _batches(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the molecules, and where each batch ends."""
        attempt = 0
        while True:
            order = self._order(epoch, attempt)
            bounds = self._fill(order)
            if len(bounds) <= self.batches:
                break
            attempt += 1
        while len(bounds) < self.batches:  # halve the batch with the most molecules
            lengths = np.diff(bounds, prepend=0)
            widest = int(lengths.argmax())
            bounds = np.insert(bounds, widest, bounds[widest] - lengths[widest] // 2)
        return order, bounds

    def _order(self, epoch: int, attempt: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(len(self.sizes))
        return np.random.default_rng([self.seed, epoch, attempt]).permutation(len(self.sizes))

    def _fill(self, order: np.ndarray) -> np.ndarray:
        """Where each batch ends if every one takes as many as it can."""
        if len(order) == 0 or self.sizes.min() == self.sizes.max():
            step = self.budget // max(1, self.sizes.max(initial=1))
            return np.minimum(np.arange(step, len(order) + step, step), len(order))
        total = np.cumsum(self.sizes[order])
        bounds = [0]
        while bounds[-1] < len(order):
            used = total[bounds[-1] - 1] if bounds[-1] else 0
            bounds.append(int(np.searchsorted(total, used + self.budget, side="right")))
        return np.array(bounds[1:])


def share(costs: np.ndarray, ranks: int) -> list[list[int]]:
    """Share items out so that every process has about the same cost: the dearest first, each to who has least so far.

    Returns:
        The positions that each process gets, in ascending order.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [(0, 0, rank) for rank in range(ranks)]
    for item in np.argsort(-costs, kind="stable").tolist():
        load, number, rank = heapq.heappop(loads)
        shares[rank].append(item)
        heapq.heappush(loads, (load + int(costs[item]), number + 1, rank))
    return [sorted(items) for items in shares]
