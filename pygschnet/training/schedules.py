"""Schedules of the learning rate; PyTorch's and Lightning's others can be named in a configuration as well."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class ContinuousDecay(LambdaLR):
    """Learning rate lr₀ · factor^(step / steps), a little smaller at every step.

    Args:
        optimizer: whose learning rate decays.
        factor: by which it falls in `steps` steps.
        steps: in which it falls by `factor`.
        warm_up: steps in which it rises from 0 in a line, before and besides.

    Source: arXiv:1706.08566, section 4.2, read as the released code does: continuous, not in stairs.
    """

    def __init__(self, optimizer: Optimizer, factor: float = 0.96, steps: int = 100_000, warm_up: int = 0):
        super().__init__(optimizer, _warmed_up(lambda step: factor ** (step / steps), warm_up))


class CosineDecay(LambdaLR):
    """Learning rate on half a cosine: from lr₀ to a fraction of it, where it stays.

    Args:
        optimizer: whose learning rate decays.
        steps: after which it has arrived.
        final: the fraction that is left.
        warm_up: steps in which it rises from 0 in a line, before and besides.

    Source: arXiv:1608.03983, Eq. 5, without restarts.
    """

    def __init__(self, optimizer: Optimizer, steps: int, final: float = 0.0, warm_up: int = 0):
        super().__init__(
            optimizer,
            _warmed_up(lambda step: final + (1 - final) * (1 + math.cos(math.pi * min(step / steps, 1))) / 2, warm_up),
        )


def _warmed_up(schedule: Callable[[int], float], warm_up: int) -> Callable[[int], float]:
    return lambda step: schedule(step) * min(1.0, (step + 1) / (warm_up + 1))
