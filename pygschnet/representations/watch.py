"""Noticing that a module has changed."""

from typing import Any

from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from pygschnet.nn.hooks import hooks_of


class Watch:
    """Tells whether a module has changed: its weights, its layers, or whether somebody observes them.

    By hand, and from a list, because walking through `parameters()` takes longer than a small molecule. Not seen are
    changes in place of a parameter's `.data`, which PyTorch does not count; `train()` and `eval()` drop what is kept.
    """

    steps = 0
    """Of all optimisers: the fused ones change weights in place without PyTorch's counting it."""

    def __init__(self, module: nn.Module):
        global _counting
        if not _counting:
            _counting = register_optimizer_step_post_hook(_count)
        modules = list(module.modules())
        self.children = [(m._modules, name, child) for m in modules for name, child in m._modules.items()]
        self.weights = [(m._parameters, name) for m in modules for name, p in m._parameters.items() if p is not None]
        self.hooks = [hooks for m in modules for hooks in hooks_of(m)]

    def outdated(self) -> bool:
        """Whether other layers have taken the place of those that are watched."""
        return any(modules.get(name) is not child for modules, name, child in self.children)

    def state(self) -> list[Any]:
        """Equal to an earlier one of the same layers if nothing has changed since."""
        weights = [parameters[name] for parameters, name in self.weights]
        return [
            Watch.steps,
            [weight.data_ptr() for weight in weights],
            [weight._version for weight in weights],
            [id(child) for _, _, child in self.children],
            any(self.hooks),
        ]


_counting: Any = None


def _count(*_: Any) -> None:
    Watch.steps += 1
