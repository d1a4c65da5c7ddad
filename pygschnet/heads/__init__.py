"""Heads: from features per atom to properties."""

from pygschnet.heads.atomwise import ACTIVATIONS, Atomwise, least_squares_references
from pygschnet.heads.base import Head
from pygschnet.heads.dipole import Dipole
from pygschnet.heads.polarisability import Polarisability
from pygschnet.heads.spatial_extent import SpatialExtent

__all__ = ["ACTIVATIONS", "Atomwise", "Dipole", "Head", "Polarisability", "SpatialExtent", "least_squares_references"]
