"""GDML and sGDML: kernel force fields of single molecules."""

from pygschnet.gdml.estimator import GDMLRegressor
from pygschnet.gdml.force_field import GDML

__all__ = ["GDML", "GDMLRegressor"]
