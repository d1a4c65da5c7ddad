"""Numbers that stay exact."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn


class ExactBuffers(nn.Module):
    """A module whose buffers move with it, but keep their precision when it is cast: `float()` rounds weights only.

    Attributes:
        cast: names of buffers that are cast all the same.
    """

    cast: ClassVar[tuple[str, ...]] = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ExactBuffers":
        exact = {name: buffer for name, buffer in self.named_buffers(recurse=False) if name not in self.cast}
        super()._apply(fn, recurse)
        for name, before in exact.items():
            setattr(self, name, before.to(getattr(self, name).device))
        return self
