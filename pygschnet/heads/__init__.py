"""Heads: from features per atom to properties."""

from pygschnet.heads.atomwise import ACTIVATIONS, Atomwise
from pygschnet.heads.base import Head
from pygschnet.heads.dipole import Dipole
from pygschnet.heads.energy import EnergyHead, least_squares_references
from pygschnet.heads.set2set import Set2SetReadout
from pygschnet.heads.sum import Sum

__all__ = [
    "ACTIVATIONS",
    "Atomwise",
    "Dipole",
    "EnergyHead",
    "Head",
    "Set2SetReadout",
    "Sum",
    "least_squares_references",
]
