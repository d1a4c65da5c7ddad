"""Which molecules form a batch: a fixed number, or as many as a budget of atoms or edges allows."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from pygschnet.errors import InputError


class BatchSampler(Sampler[list[int]]):
    """Batches of positions in a selection; nothing is dropped, and every epoch has the same number of batches.

    The order of an epoch follows from seed and epoch alone. Every pass is an epoch of its own, the next one unless
    `set_epoch` says otherwise.

    Args:
        sizes: what each molecule costs, for instance its atoms; ones for a fixed number of molecules.
        budget: the most that the molecules of a batch may cost together.
        shuffle: draw a new order in every epoch.
        seed: of the orders.

    Raises:
        InputError: if a molecule alone exceeds the budget.
    """

    def __init__(self, sizes: np.ndarray, budget: int, shuffle: bool = False, seed: int = 0):
        if len(sizes) and sizes.max() > budget:
            raise InputError(f"a molecule has the size {sizes.max()}, which does not fit in a batch of {budget}")
        self.sizes, self.budget, self.shuffle, self.seed, self.epoch = sizes, budget, shuffle, seed, 0
        batches = len(self._fill(self._order(0, 0)))
        uneven = shuffle and len(sizes) > 0 and sizes.min() < sizes.max()
        # orders fill their batches a little better or worse: a few to spare make the number of batches the same
        self.batches = min(len(sizes), batches + batches // 50 + 1) if uneven else batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls this at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        attempt, epoch = 0, self.epoch
        self.epoch += 1
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
        first = 0
        for last in bounds.tolist():
            yield order[first:last].tolist()
            first = last

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
