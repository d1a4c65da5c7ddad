"""Molecular dynamics and relaxation: thin layers over ASE's."""

from pygschnet.simulation.dynamics import md
from pygschnet.simulation.relaxation import relax

__all__ = ["md", "relax"]
