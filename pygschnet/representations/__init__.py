"""Representations: a graph in, a feature vector per atom out."""

from pygschnet.representations.base import Representation
from pygschnet.representations.dtnn import DTNN
from pygschnet.representations.enn_s2s import EnnS2S
from pygschnet.representations.schnet import SchNet
from pygschnet.representations.symmetry_functions import SymmetryFunctions
from pygschnet.representations.zeros import Zeros

__all__ = ["DTNN", "EnnS2S", "Representation", "SchNet", "SymmetryFunctions", "Zeros"]
