"""PyTorch files of other programs, read without running anything in them.

A pickle is a program. Here every class and function that it names, without exception, becomes an inert record of what
it was to be called with; tensors are made from these records afterwards.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pygschnet.errors import InputError

LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of torch before 1.6 begin: its magic number, pickled."""

TENSORS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
WRAPPERS = {
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch.nn.parameter.Parameter",
}
DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
}
REFUSED = b"".join([pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.BYTEARRAY8, pickle.NEXT_BUFFER])
"""Instructions of pickles that no such file has: registered code, and memory of any size."""

DEPTH = 40
"""Modules within modules from which on a file is not believed."""


class Foreign:
    """What a pickle says about an object, whose class is not looked up.

    Attributes:
        name: of the class or function, with its module.
        args: what it was to be called with.
        state: its attributes, by name; whatever else it was to be restored from, if it is not a dictionary.
    """

    name = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> "Foreign":
        self = super().__new__(cls)
        self.args, self.state = args, {}
        return self

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass  # contents of containers that nobody asks for, as are the next two

    def append(self, item: Any) -> None:
        """Nothing."""

    def extend(self, items: Any) -> None:
        """Nothing."""

    def get(self, name: str) -> Any:
        """An attribute, a parameter, a buffer or a child module; None if there is none of this name."""
        if not isinstance(self.state, dict):
            return None
        for place in (self.state, *(self.state.get(kind) for kind in ("_modules", "_parameters", "_buffers"))):
            if isinstance(place, dict) and name in place:
                return place[name]
        return None

    def children(self) -> dict[str, "Foreign"]:
        """The modules in this module."""
        modules = self.get("_modules")
        found = dict(modules) if isinstance(modules, dict) else {}
        return {name: child for name, child in found.items() if isinstance(child, Foreign)}

    def modules(self, path: str = "") -> dict[str, "Foreign"]:
        """All modules, this one among them, by their paths."""
        if path.count(".") > DEPTH:
            raise InputError("the file holds a module within itself")
        found = {path: self}
        for name, child in self.children().items():
            found |= child.modules(f"{path}.{name}" if path else str(name))
        return found

    def tensors(self) -> dict[str, Tensor]:
        """The state_dict of this module."""
        found = {}
        for path, module in self.modules().items():
            for kind in ("_parameters", "_buffers"):
                for name, node in (module.get(kind) or {}).items():
                    if node is not None:
                        found[f"{path}.{name}" if path else name] = tensor(node)
        return found


class Storage:
    """The numbers of one or several tensors, which come after the pickle.

    Attributes:
        dtype: of the numbers; None if unknown.
        length: how many there are.
        data: the numbers, once they have been read.
    """

    def __init__(self, dtype: torch.dtype | None, length: int):
        self.dtype, self.length = dtype, length
        self.data: Tensor | None = None

    def fill(self, content: bytes) -> None:
        """Take the numbers from little-endian bytes."""
        if self.dtype is not None:
            data = (
                torch.frombuffer(bytearray(content), dtype=self.dtype) if content else torch.empty(0, dtype=self.dtype)
            )
            if len(data) < self.length:
                raise InputError(f"{self.length} numbers of a tensor were expected, {len(data)} found")
            self.data = data


class Recorder(pickle._Unpickler):
    """An unpickler that makes `Foreign` records of everything but plain containers, numbers and text.

    It is the one written in Python: that in C takes as much memory as a few bytes of a file can ask for.
    """

    dispatch = {code: load for code, load in pickle._Unpickler.dispatch.items() if code not in REFUSED}  # noqa: RUF012

    def __init__(self, file: io.BytesIO):
        super().__init__(file, encoding="latin1")
        self.classes: dict[str, type] = {}
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path == "collections.OrderedDict":
            return OrderedDict
        return self.classes.setdefault(path, type("Record", (Foreign,), {"name": path}))

    def persistent_load(self, pid: Any) -> Any:
        kind, cls, *rest = pid
        if kind == "module":  # with its source code, before torch 1.6
            return self.find_class(*cls.name.rpartition(".")[::2])
        key, length = str(rest[0]), int(rest[2])
        if any(view is not None for view in rest[3:]):
            raise InputError("this holds views of tensors as torch 0.3 wrote them: save it again with a newer one")
        return self.storages.setdefault(key, Storage(DTYPES.get(cls.name.rpartition(".")[2]), length))


def read(path: str | Path) -> Any:
    """What a file written by `torch.save` holds, as plain containers and `Foreign` records.

    Args:
        path: of the file, of any version of torch since 0.4.

    Raises:
        InputError: for anything else, and for damaged files.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}")
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        return _read_legacy(io.BytesIO(Path(path).read_bytes()))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # hostile or damaged, there is nothing that it could not be
        raise InputError(f"{path} is damaged, or made to look like a file of torch: {error!r}") from None


def tensor(node: Any) -> Tensor:
    """The tensor that a record describes, on the CPU.

    Raises:
        InputError: if it describes something else, or numbers that are not there.
    """
    while isinstance(node, Foreign) and node.name in WRAPPERS and node.args:
        node = node.args[0]
    if not (isinstance(node, Foreign) and node.name in TENSORS and len(node.args) >= 4):
        name = node.name if isinstance(node, Foreign) else type(node).__name__
        raise InputError(f"the file holds {name!r} in place of a tensor; nothing of it was run")
    storage, offset, size, stride = node.args[:4]
    if not isinstance(storage, Storage) or storage.data is None:
        raise InputError("the file holds a tensor of a type of numbers that is not known here")
    try:
        if math.prod(size) > len(storage.data):
            raise ValueError
        return torch.as_strided(storage.data, tuple(size), tuple(stride), offset).clone()
    except (ValueError, TypeError, RuntimeError):
        raise InputError(f"the file holds a tensor of {size} numbers without their values") from None


def number(node: Any) -> float:
    """A Python, NumPy or torch number.

    Raises:
        InputError: for anything else, and for numbers that are not finite.
    """
    if isinstance(node, int | float):
        node = torch.tensor(float(node), dtype=torch.float64)
    if isinstance(node, Foreign) and node.name.endswith("multiarray.scalar") and len(node.args) == 2:
        code, content = getattr(node.args[0], "args", ("",))[0], node.args[1]
        if code in ("f4", "f8", "i4", "i8"):
            content = content.encode("latin1") if isinstance(content, str) else content
            node = torch.tensor(float(np.frombuffer(content, code)[0]), dtype=torch.float64)
    values = (node if isinstance(node, Tensor) else tensor(node)).flatten()
    if len(values) != 1 or not values.isfinite().all():
        raise InputError(f"one finite number was expected, found {values.tolist()[:5]}")
    return float(values.double())


def optional_number(node: Any) -> float | None:
    """A number, or None for None."""
    return None if node is None else number(node)


def record(file: io.BytesIO) -> Any:
    """What one pickle holds, tensors excepted."""
    return Recorder(file).load()


def _read_zip(path: str | Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise InputError("this is no file of torch.save")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise InputError("this is compressed, which torch.save does not do: it could grow without bounds")
        folder = pickles[0].removesuffix("data.pkl")
        if any(name.startswith(f"{folder}code/") for name in names):
            raise InputError("this is a TorchScript program: give the model it was made from")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise InputError("this was written on a big-endian machine: save it again on another")
        recorder = Recorder(io.BytesIO(archive.read(pickles[0])))
        content = recorder.load()
        for key, storage in recorder.storages.items():
            storage.fill(archive.read(f"{folder}data/{key}"))
    return content


def _read_legacy(file: io.BytesIO) -> Any:
    if file.read(len(LEGACY)) != LEGACY:
        raise InputError("this is no file of torch.save (nor of torch 0.3 and before, which cannot be read)")
    record(file)  # version of the protocol
    if record(file).get("little_endian") is not True:
        raise InputError("this was written on a big-endian machine: save it again on another")
    recorder = Recorder(file)
    content = recorder.load()
    for key in record(file):
        storage = recorder.storages[str(key)]
        size = 1 if storage.dtype is None else storage.dtype.itemsize
        length = int.from_bytes(file.read(8), "little")
        storage.fill(file.read(length * size))
    return content
