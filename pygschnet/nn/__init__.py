"""Layers: tensors in, tensors out. Each can be used alone in any PyG model."""

from pygschnet.nn.activation import ShiftedSoftplus, dense, shifted_softplus
from pygschnet.nn.cfconv import CFConv
from pygschnet.nn.cutoff import Cutoff
from pygschnet.nn.filter import FilterNetwork
from pygschnet.nn.interaction import InteractionBlock
from pygschnet.nn.radial import GaussianBasis, gaussian_basis

__all__ = [
    "CFConv",
    "Cutoff",
    "FilterNetwork",
    "GaussianBasis",
    "InteractionBlock",
    "ShiftedSoftplus",
    "dense",
    "gaussian_basis",
    "shifted_softplus",
]
