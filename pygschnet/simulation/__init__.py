"""Molecular dynamics and relaxation: thin layers over ASE's."""

from pygschnet.simulation.md import md
from pygschnet.simulation.relax import relax

__all__ = ["md", "relax"]
