"""Training with Lightning."""

from pygschnet.training.module import AtomisticModule, energy_forces_loss, molecule_losses
from pygschnet.training.report import RunReport
from pygschnet.training.resume import Checkpoints
from pygschnet.training.rewind import Rewind
from pygschnet.training.schedules import ContinuousDecay, CosineDecay
from pygschnet.training.soap import SOAP

__all__ = [
    "SOAP",
    "AtomisticModule",
    "Checkpoints",
    "ContinuousDecay",
    "CosineDecay",
    "Rewind",
    "RunReport",
    "energy_forces_loss",
    "molecule_losses",
]
