"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pygschnet.errors import InputError


def check_folder(path: str | Path) -> None:
    """Refuse the path of a file whose folder does not exist: before the work, where there is much of it."""
    if not Path(path).parent.is_dir():
        raise InputError(f"there is no folder {Path(path).parent} for {Path(path).name}")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a path to write to; what stands there in the end takes the place of `path` in one step.

    If writing fails the old file, if any, stays as it was, and nothing else is left.

    Args:
        path: of the file that is wanted.

    Raises:
        InputError: if there is no folder for it.
    """
    check_folder(path)
    part = Path(path).with_name(f"{Path(path).name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an npz file, whole or not at all."""
    content: dict[str, Any] = dict(arrays)
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, **content)
