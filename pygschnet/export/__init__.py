"""Models as files that compute without this package."""

from pygschnet.export.package import export, write

__all__ = ["export", "write"]
