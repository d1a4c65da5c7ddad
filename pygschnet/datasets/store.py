"""The file of a data set: flat arrays of any size in one safetensors file, memory-mapped when it is read.

The container is safetensors (a JSON header, then the bytes of each array), which many tools read. Its library wants all
arrays in memory to write them; `writing` appends instead, so that a data set may be larger than that.
"""

import contextlib
import hashlib
import itertools
import json
import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from pygschnet.errors import InputError
from pygschnet.files import replacing

FORMAT = 1
"""Version of the layout. Files of a later version are refused."""

KIND = "pygschnet molecules"
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_ALIGNMENT = 64
LARGE = 1 << 25  # bytes


class Columns:
    """Arrays that grow on disk, in a folder; see `writing`.

    Args:
        folder: for one file per array.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.metadata: dict[str, Any] = {}
        self._numbers = itertools.count()
        self._files: dict[str, BinaryIO] = {}
        self._shapes: dict[str, list[int]] = {}
        self._dtypes: dict[str, str] = {}
        self._hashes: dict[str, Any] = {}

    def append(self, name: str, array: np.ndarray) -> None:
        """Append rows to an array."""
        content = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        if name not in self._files:
            if content.dtype.str not in _CODES:
                raise InputError(f"{name} holds {content.dtype}, which a data file cannot")
            self._files[name] = (self.folder / str(next(self._numbers))).open("w+b")
            self._shapes[name], self._dtypes[name] = [0, *content.shape[1:]], content.dtype.str
            self._hashes[name] = hashlib.sha256()
        if {content.dtype.str, self._dtypes[name]} == {"<f4", "<f8"}:  # the more precise of both
            content = content.astype("<f8")
            self._widen(name)
        if content.dtype.str != self._dtypes[name] or list(content.shape[1:]) != self._shapes[name][1:]:
            raise InputError(
                f"{name} has rows of {content.dtype} {list(content.shape[1:])} after rows of "
                f"{np.dtype(self._dtypes[name])} {self._shapes[name][1:]}"
            )
        self._files[name].write(content.data if content.size else b"")
        self._hashes[name].update(content.data if content.size else b"")
        self._shapes[name][0] += len(content)

    def read(self, name: str) -> np.ndarray:
        """An array as far as it has been written, from disk."""
        self._files[name].flush()
        shape = self._shapes[name]
        if 0 in shape:
            return np.zeros(shape, self._dtypes[name])
        return np.memmap(self._files[name].name, self._dtypes[name], "r", shape=tuple(shape))

    def _widen(self, name: str) -> None:
        """Make float64 of an array that has been float32 so far."""
        if self._dtypes[name] == "<f4":
            before = self.read(name).astype("<f8")
            self.drop(name)
            del self._shapes[name]
            self.append(name, before)

    def drop(self, name: str) -> None:
        """Leave an array out."""
        self._files.pop(name).close()

    def finish(self, file: BinaryIO) -> None:
        """Write all arrays to one file in the format of safetensors."""
        entries: dict[str, Any] = {}
        offset = 0
        order = sorted(self._files, key=lambda name: -np.dtype(self._dtypes[name]).itemsize)  # keeps them aligned
        for name in order:
            size = np.dtype(self._dtypes[name]).itemsize * int(np.prod(self._shapes[name]))
            entries[name] = {
                "dtype": _CODES[self._dtypes[name]],
                "shape": self._shapes[name],
                "data_offsets": [offset, offset + size],
            }
            offset += size
        hashes = {name: self._hashes[name].hexdigest() for name in order}
        metadata = {"kind": KIND, "format": FORMAT, "sha256": hashes, **self.metadata}
        header = json.dumps({"__metadata__": {"pygschnet": json.dumps(metadata)}, **entries}).encode()
        header += b" " * (-(len(header) + 8) % _ALIGNMENT)
        file.write(len(header).to_bytes(8, "little") + header)
        for name in order:
            self._files[name].seek(0)
            shutil.copyfileobj(self._files[name], file, 1 << 24)

    def close(self) -> None:
        """Close the files of the arrays."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # of a full disk: what has been seen already
                file.close()


@contextmanager
def writing(path: Path) -> Iterator[Columns]:
    """Gives `Columns` to append to, which become the file `path` in one step at the end, or leave nothing behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        columns = Columns(Path(folder))
        try:
            yield columns
            with replacing(path) as part, part.open("wb") as file:
                columns.finish(file)
        finally:
            columns.close()


class Store(Mapping[str, np.ndarray]):
    """The arrays of a data file, read-only. Pages are read when they are touched and shared by all processes.

    Args:
        path: of the file.

    Raises:
        InputError: if it is no such file, is cut short, or was written by a later version.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"there is no file {self.path}")
        try:
            with safe_open(self.path, "np") as file:
                self.metadata: dict[str, Any] = json.loads((file.metadata() or {}).get("pygschnet", "{}"))
        except (SafetensorError, ValueError) as error:
            raise InputError(f"{self.path} is not a data file, or is cut short: {error}") from None
        if self.metadata.get("kind") != KIND:
            raise InputError(f"{self.path} is a safetensors file, but holds no molecules")
        if self.metadata["format"] > FORMAT:
            raise InputError(
                f"{self.path} has the format {self.metadata['format']}, this version reads {FORMAT}: update pygschnet"
            )
        self._file = self.path.open("rb")
        weakref.finalize(self, self._file.close)
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        size = int.from_bytes(self._map[:8], "little")
        header = json.loads(self._map[8 : 8 + size])
        self._arrays: dict[str, np.ndarray] = {}
        self._offsets: dict[str, int] = {}
        for name, entry in header.items():
            if name != "__metadata__":
                count = int(np.prod(entry["shape"]))
                offset = 8 + size + entry["data_offsets"][0]
                flat = np.frombuffer(self._map, _DTYPES[entry["dtype"]], count, offset)
                self._offsets[name] = offset
                self._arrays[name] = flat.reshape(entry["shape"])

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[type["Store"], tuple[Path]]:
        return Store, (self.path,)  # another process maps the file itself

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return len(self._map)

    def is_large(self, name: str) -> bool:
        """Whether random access should read an array: mapped, it would come into memory as a whole in the end."""
        return self._arrays[name].nbytes > LARGE and hasattr(os, "pread")  # not on Windows

    def read_ranges(self, name: str, first: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The rows first[k] … first[k] + counts[k] − 1 of an array for every k, read from the file."""
        array, start = self._arrays[name], self._offsets[name]
        row = array[:1].nbytes
        content = bytearray().join(
            os.pread(self._file.fileno(), count * row, start + place * row)
            for place, count in zip(first.tolist(), counts.tolist(), strict=True)
        )
        return np.frombuffer(content, array.dtype).reshape(-1, *array.shape[1:])

    def verify(self) -> None:
        """Read everything and compare the checksums.

        Raises:
            InputError: naming the arrays that have changed since they were written.
        """
        bad = [name for name, digest in self.metadata["sha256"].items() if sha256_of(self[name]) != digest]
        if bad:
            raise InputError(f"{', '.join(bad)} of {self.path} have changed since they were written: convert again")


def sha256_of(array: np.ndarray) -> str:
    """Of the bytes of an array."""
    return hashlib.sha256(np.ascontiguousarray(array).data if array.size else b"").hexdigest()
