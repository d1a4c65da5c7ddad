"""Heads: from features per atom to properties."""

from pygschnet.heads.atomwise import ACTIVATIONS, Atomwise, least_squares_references
from pygschnet.heads.base import Head
from pygschnet.heads.dipole import Dipole

__all__ = ["ACTIVATIONS", "Atomwise", "Dipole", "Head", "least_squares_references"]
