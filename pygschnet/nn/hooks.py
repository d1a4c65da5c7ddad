"""Whether somebody observes a layer."""

from torch import nn


def hooks_of(module: nn.Module) -> tuple[dict, ...]:
    """The hooks of a layer, of both directions: who has some wants it to be called."""
    return module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
