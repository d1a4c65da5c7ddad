"""Trainings that run away, and how they go on."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.utils import get_total_norm

MEMORY = 1000
"""Steps over which the squared norm of gradients is averaged."""


class Rewind(pl.Callback):
    """Goes back to where all was well when a training runs away.

    Near the largest learning rate that a network bears, a loss may rise by orders of magnitude within a few steps, and
    Adam then takes long to come back, if ever. Weights, averages and the optimiser's moments become those kept last,
    and the step is left out; batches and learning rate go on, so that the training takes another way. Where
    nothing runs away nothing is changed. A resumed training does what one without interruption does. The norm is asked
    for at every step, for which a GPU is waited for; not for precision 16-mixed, where infinite gradients are usual.

    Args:
        factor: a training has run away once the norm of a gradient, not clipped, is that many times the root mean
            square over the last thousand steps or so.
        every: steps after which weights are kept anew, at the next gradient that is no larger than usual.

    Source: arXiv:2204.02311, Sec. 5.1, restarts a training before a spike of its loss with other batches.
    """

    def __init__(self, factor: float = 100.0, every: int = 1000):
        self.factor, self.every = factor, every
        self.square, self.seen = 0.0, 0  # the mean squared norm, of so many
        self.step = 0  # of what is kept
        self.kept: list[Tensor] = []

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at the gradient, the same in all processes; go back, or keep what is there."""
        parameters = [each for group in optimizer.param_groups for each in group["params"] if each.grad is not None]
        norm, usual = float(get_total_norm([weights.grad for weights in parameters])), math.sqrt(self.square)
        if self.kept and not norm <= self.factor * usual:
            rank_zero_warn(
                f"the training has run away: at step {trainer.global_step} the gradient's norm is {norm:.3g}, where "
                f"{usual:.3g} is usual; it goes on with the weights of step {self.step}"
            )
            with torch.no_grad():
                for tensor, kept in zip(state(pl_module, optimizer), self.kept, strict=True):
                    tensor.copy_(kept)
            for weights in parameters:
                weights.grad = None  # the optimiser leaves them as they are
            return
        if norm <= usual and trainer.global_step >= self.step + self.every:
            self.kept = [tensor.detach().clone() for tensor in state(pl_module, optimizer)]
            self.step = trainer.global_step
        self.seen += 1
        self.square += (norm**2 - self.square) / min(self.seen, MEMORY)

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {name: getattr(self, name) for name in ("square", "seen", "step", "kept")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        vars(self).update(state_dict)


def state(module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Weights, averages, and moments and counters of the optimiser."""
    moments = [each[name] for each in optimizer.state.values() for name in sorted(each)]
    return [*module.parameters(), *(moment for moment in moments if isinstance(moment, Tensor))]
