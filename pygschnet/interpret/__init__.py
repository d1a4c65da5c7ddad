"""Reading a trained model: what it says of atoms, space, elements and its own filters (arXiv:1806.10349).

Functions take a model and a molecule and return arrays; `plots` and `report` draw them.
"""

from pygschnet.interpret.attribution import attribute, sensitivity, signal_quality
from pygschnet.interpret.bonds import bonds
from pygschnet.interpret.contributions import compare, contributions, group_sums
from pygschnet.interpret.embedding import embedding_components, rank_correlations
from pygschnet.interpret.filters import filter_curves, filter_cuts
from pygschnet.interpret.groups import environments, groups
from pygschnet.interpret.patterns import Patterns, estimate_patterns
from pygschnet.interpret.probe import local_chemical_potential
from pygschnet.interpret.space import grid_around, isosurface, plane, write_cube
from pygschnet.interpret.statistics import environment_statistics, ring_stability
from pygschnet.interpret.walks import walk_relevance

__all__ = [
    "Patterns",
    "attribute",
    "bonds",
    "compare",
    "contributions",
    "embedding_components",
    "environment_statistics",
    "environments",
    "estimate_patterns",
    "filter_curves",
    "filter_cuts",
    "grid_around",
    "group_sums",
    "groups",
    "isosurface",
    "local_chemical_potential",
    "plane",
    "rank_correlations",
    "ring_stability",
    "sensitivity",
    "signal_quality",
    "walk_relevance",
    "write_cube",
]
