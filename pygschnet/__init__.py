"""SchNet for PyTorch Geometric and Lightning."""

from importlib.metadata import version

from pygschnet.calculator import Calculator
from pygschnet.errors import InputError
from pygschnet.graph import RadiusGraph, from_atoms
from pygschnet.heads import Atomwise, Dipole, Head
from pygschnet.model import AtomisticModel, Prediction
from pygschnet.representations import Representation, SchNet
from pygschnet.saving import describe, load, preset, save

__version__ = version("pygschnet")

__all__ = [
    "AtomisticModel",
    "Atomwise",
    "Calculator",
    "Dipole",
    "Head",
    "InputError",
    "Prediction",
    "RadiusGraph",
    "Representation",
    "SchNet",
    "describe",
    "from_atoms",
    "load",
    "preset",
    "save",
]
