"""Structures of a file, one after the other; one that cannot be read does not take the others with it."""

import warnings
from collections.abc import Iterator
from io import StringIO
from itertools import chain, islice
from pathlib import Path

import ase.io
from ase import Atoms

from pygschnet.errors import InputError


def read_frames(path: str | Path) -> Iterator[Atoms | InputError]:
    """All structures of a file, and what is wrong with those that cannot be read.

    Of xyz and extxyz files every structure is read by itself; of all other formats that ASE knows, those up to the
    first that is damaged.

    Args:
        path: of the file.

    Raises:
        InputError: if there is no such file, or not one structure in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    count = 0
    for frame in _xyz(path) if path.suffix in (".xyz", ".extxyz") else _others(path):
        count += 1
        yield frame
    if not count:
        raise InputError(f"{path} holds no structures")


def _xyz(path: Path) -> Iterator[Atoms | InputError]:
    with path.open(errors="replace") as file:
        lines: Iterator[str] = iter(file)
        lost = False  # whether in lines that belong to no structure
        while (line := next(lines, None)) is not None:
            if not line.strip():
                continue
            if not line.strip().isdigit():
                if not lost:
                    yield InputError(f"expected a number of atoms, found {line.strip()[:60]!r}")
                lost = True
                continue
            lost, block = False, [line, *islice(lines, int(line) + 1)]
            early = next((k for k in range(2, len(block)) if block[k].strip().isdigit()), len(block))
            if early < len(block):  # one that lacks lines, and the beginning of the next
                lines = chain(block[early:], lines)
            yield _read("".join(block[:early]))


def _read(text: str) -> Atoms | InputError:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of ASE, on names that it treats in a way of its own
            return next(ase.io.iread(StringIO(text), format="extxyz"))
    except Exception as error:  # ASE's readers fail in many ways; all mean that the text is not what it should be
        return InputError(f"cannot be read ({type(error).__name__}: {error})")


def _others(path: Path) -> Iterator[Atoms | InputError]:
    if path.stat().st_size == 0:
        return
    frames = ase.io.iread(path, ":", do_not_split_by_at_sign=True)
    while True:
        try:
            atoms = next(frames, None)
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno:  # not of the file's content
                raise
            yield InputError(f"cannot be read ({type(error).__name__}: {error})")
            return
        if atoms is None:
            return
        yield atoms
