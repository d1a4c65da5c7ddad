"""TensorFlow's checkpoints, read without TensorFlow.

A checkpoint is two files: `.index`, a sorted table as LevelDB writes it, from the names of the tensors to where their
numbers are, and `.data-00000-of-00001`, the numbers.

Source: tensorflow/core/util/tensor_bundle and tensorflow/core/lib/io/table_format.txt.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pygschnet.errors import InputError

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER = 48
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}
"""TensorFlow's numbers of the types of tensors that are read."""


def read_bundle(prefix: str) -> dict[str, Tensor]:
    """The floating-point and integer tensors of a checkpoint, by name.

    Args:
        prefix: path of the files without `.index`.

    Raises:
        InputError: if a file is missing or damaged, or the checkpoint is in several parts.
    """
    index, data = Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001")
    for path in (index, data):
        if not path.is_file():
            raise InputError(f"there is no file {path}, which belongs to the checkpoint")
    numbers = data.read_bytes()
    try:
        return dict(_tensors(index.read_bytes(), numbers))
    except (IndexError, KeyError, ValueError, UnicodeDecodeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{index} is damaged, or no checkpoint of TensorFlow: {error!r}") from None


def _tensors(index: bytes, numbers: bytes) -> Iterator[tuple[str, Tensor]]:
    if len(index) < FOOTER or index[-8:] != MAGIC:
        raise InputError("the index is cut short, or is none of TensorFlow's")
    footer = index[-FOOTER:]
    _, position = _varint(footer, 0)  # where the block about the blocks is, which is empty
    _, position = _varint(footer, position)
    for _, handle in _entries(index, footer[position:]):
        for key, value in _entries(index, handle):
            if not key:
                continue  # the header
            entry = _message(value)
            kind, begin, size = (int(entry.get(field, [0])[-1]) for field in (1, 4, 5))  # type: ignore[call-overload]
            if int(entry.get(3, [0])[-1]):  # type: ignore[call-overload]
                raise InputError("the checkpoint is in several parts: save it again as one")
            if kind not in DTYPES:
                continue
            shape = [int(_message(dim).get(1, [0])[-1]) for dim in _message(entry.get(2, [b""])[-1]).get(2, [])]
            if begin + size > len(numbers):
                raise InputError(f"the numbers of {key.decode()} are missing: the data file is cut short")
            values = np.frombuffer(numbers[begin : begin + size], DTYPES[kind]).reshape(shape)
            yield key.decode(), torch.from_numpy(values.copy())


def _entries(table: bytes, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of the block that the handle points to."""
    begin, position = _varint(handle, 0)
    size, _ = _varint(handle, position)
    block = table[begin : begin + size]
    if table[begin + size] != 0:
        raise InputError("the index is compressed, which TensorFlow itself does not do")
    end = size - 4 * (int.from_bytes(block[-4:], "little") + 1)  # of the entries; where to restart follows
    position, key = 0, b""
    while position < end:
        shared, position = _varint(block, position)
        unshared, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + length]
        position += length


def _message(content: bytes | int) -> dict[int, list[bytes | int]]:
    """The fields of a protocol buffer by their numbers: bytes, or integers."""
    if isinstance(content, int):
        raise ValueError("a message was expected, not a number")
    fields: dict[int, list[bytes | int]] = {}
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        value: bytes | int
        if tag & 7 == 0:
            value, position = _varint(content, position)
        else:
            size, position = _varint(content, position) if tag & 7 == 2 else ({1: 8, 5: 4}[tag & 7], position)
            value = content[position : position + size]
            position += size
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position
