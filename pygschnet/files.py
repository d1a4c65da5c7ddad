"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a path to write to; what stands there in the end takes the place of `path` in one step.

    If writing fails the old file, if any, stays as it was, and nothing else is left.

    Args:
        path: of the file that is wanted.
    """
    part = Path(path).with_name(Path(path).name + ".part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
