"""Which data set reads a file, if nobody says."""

from pathlib import Path

from pygschnet.datasets.base import MoleculeData
from pygschnet.datasets.files import Files
from pygschnet.datasets.md17 import LAYOUTS, MD17
from pygschnet.datasets.readers import open_npz


def reader_of(path: Path) -> type[MoleculeData]:
    """MD17 for files in its layouts, whose units it knows; Files for all others."""
    if path.suffix == ".npz" and path.is_file():
        with open_npz(path) as file:
            if any(set(keys.values()) - {"F", "forces", "old_forces"} <= set(file.files) for keys in LAYOUTS.values()):
                return MD17
    return Files


def open_file(path: str | Path, cutoff: float | None = None, store_edges: bool = False) -> MoleculeData:
    """The data set of a file, 80 % of it for training and 10 % for validation.

    Args:
        path: of the file.
        cutoff: radius of the edges in Å; None for all pairs.
        store_edges: find the edges once and keep them in the cache; if false, anew for every batch.
    """
    if reader_of(Path(path)) is MD17:
        return MD17(str(path), train=0.8, val=0.1, cutoff=cutoff, store_edges=store_edges)
    return Files(str(path), cutoff=cutoff, store_edges=store_edges)
