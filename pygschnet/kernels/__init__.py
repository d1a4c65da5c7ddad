"""The fused continuous-filter convolution: operators, and their kernels for CPUs and CUDA."""

from pygschnet.kernels.activation import shifted_softplus
from pygschnet.kernels.convolution import Pairs, aggregate, available, make_pairs, pair_dot, table_grad

__all__ = ["Pairs", "aggregate", "available", "make_pairs", "pair_dot", "shifted_softplus", "table_grad"]
