"""Data sets: files in, `LightningDataModule`s with units and a split out."""

from pygschnet.datasets.base import MoleculeData
from pygschnet.datasets.md17 import MD17
from pygschnet.datasets.molecules import Molecules

__all__ = ["MD17", "MoleculeData", "Molecules"]
