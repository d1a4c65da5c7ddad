"""Heads: from features per atom to properties."""

from pygschnet.heads.atomwise import Atomwise
from pygschnet.heads.base import Head
from pygschnet.heads.dipole import Dipole
from pygschnet.heads.elemental import Elemental
from pygschnet.heads.energy import EnergyHead, least_squares_references
from pygschnet.heads.polarisability import Polarisability
from pygschnet.heads.set2set import Set2SetReadout
from pygschnet.heads.spatial_extent import SpatialExtent
from pygschnet.heads.sum import Sum

__all__ = [
    "Atomwise",
    "Dipole",
    "Elemental",
    "EnergyHead",
    "Head",
    "Polarisability",
    "Set2SetReadout",
    "SpatialExtent",
    "Sum",
    "least_squares_references",
]
