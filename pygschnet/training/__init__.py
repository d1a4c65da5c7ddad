"""Training with Lightning."""

from pygschnet.training.module import AtomisticModule, ContinuousDecay, energy_forces_loss, molecule_losses
from pygschnet.training.report import RunReport
from pygschnet.training.resume import Checkpoints

__all__ = [
    "AtomisticModule",
    "Checkpoints",
    "ContinuousDecay",
    "RunReport",
    "energy_forces_loss",
    "molecule_losses",
]
