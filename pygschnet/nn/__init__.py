"""Layers: tensors in, tensors out. Each can be used alone in any PyG model."""

from pygschnet.nn.activation import ACTIVATIONS, Activation, dense, perceptron, shifted_softplus
from pygschnet.nn.cfconv import CFConv
from pygschnet.nn.cutoff import Cutoff
from pygschnet.nn.filter import FilterNetwork
from pygschnet.nn.interaction import InteractionBlock
from pygschnet.nn.radial import GaussianBasis, gaussian_basis

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "CFConv",
    "Cutoff",
    "FilterNetwork",
    "GaussianBasis",
    "InteractionBlock",
    "dense",
    "gaussian_basis",
    "perceptron",
    "shifted_softplus",
]
