"""Data sets: files in, `LightningDataModule`s with units and a split out."""

from pygschnet.datasets.base import MoleculeData
from pygschnet.datasets.files import ANI1, QM7X, Files
from pygschnet.datasets.iso17 import ISO17
from pygschnet.datasets.md17 import MD17
from pygschnet.datasets.molecules import Molecules
from pygschnet.datasets.qm9 import QM9

__all__ = ["ANI1", "ISO17", "MD17", "QM7X", "QM9", "Files", "MoleculeData", "Molecules"]
