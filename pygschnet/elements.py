"""Elements, by atomic number and by symbol."""

from collections.abc import Iterable

from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Int
from torch import Tensor

from pygschnet.errors import InputError

MAX_Z = 99
"""Highest atomic number with an embedding."""


def check_atomic_numbers(z: Int[Tensor, "atoms"]) -> None:
    """Refuse atomic numbers without an embedding.

    Raises:
        InputError: naming the first of them.
    """
    if z.numel() == 0:
        return  # the share of a process that got no molecules
    low, high = z.aminmax()
    if low < 1 or high > MAX_Z:
        wrong = z[(z < 1) | (z > MAX_Z)]
        raise InputError(f"atomic number {wrong[0]} is out of range: 1 (H) to {MAX_Z} ({chemical_symbols[MAX_Z]})")


def numbers_of(symbols: Iterable[str]) -> list[int]:
    """The atomic numbers of elements.

    Args:
        symbols: such as H and Si.

    Raises:
        InputError: for what is no element, or has no embedding.
    """
    listed = list(symbols)
    if unknown := [symbol for symbol in listed if atomic_numbers.get(symbol, 0) not in range(1, MAX_Z + 1)]:
        raise InputError(f"unknown element {unknown[0]!r}: give symbols from H to {chemical_symbols[MAX_Z]}")
    return [atomic_numbers[symbol] for symbol in listed]


def distinct_numbers_of(symbols: Iterable[str]) -> list[int]:
    """The same of elements that must differ.

    Raises:
        InputError: for what is no element, or is listed twice.
    """
    numbers = numbers_of(listed := list(symbols))
    if len(set(numbers)) < len(numbers):
        raise InputError(f"an element is listed twice: {', '.join(listed)}")
    return numbers
