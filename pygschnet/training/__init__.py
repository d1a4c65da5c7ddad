"""Training with Lightning."""

from pygschnet.training.module import AtomisticModule, ContinuousDecay, energy_forces_loss
from pygschnet.training.report import RunReport

__all__ = ["AtomisticModule", "ContinuousDecay", "RunReport", "energy_forces_loss"]
