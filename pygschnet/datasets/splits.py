"""Splits: which molecules are for training, validation and test. A split has its own seed and is part of the record."""

import hashlib
import json
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pygschnet.datasets.border import isolated_atoms
from pygschnet.datasets.convert import compositions
from pygschnet.datasets.readers import array_of, open_npz
from pygschnet.datasets.store import Store
from pygschnet.errors import InputError
from pygschnet.files import write_npz

SPLITS = ("train", "val", "test")

REST = "rest"
"""As a set of rows: all molecules that belong to none of the others."""

Size = int | float | None


def random_split(pool: Tensor, sizes: Mapping[str, int], seed: int) -> dict[str, Tensor]:
    """Draw disjoint sets at random from a pool of indices, in the order of `sizes`.

    Args:
        pool: the indices to draw from.
        sizes: how many to draw for each name.
        seed: of the draw, apart from every other seed.

    Raises:
        InputError: if more are asked for than there are.
    """
    wanted = " + ".join(f"{size} for {name}" for name, size in sizes.items())
    if min(sizes.values()) < 0:
        raise InputError(f"sizes of a split must not be negative: {wanted}")
    if sum(sizes.values()) > len(pool):
        raise InputError(f"{wanted} = {sum(sizes.values())} structures asked for, but only {len(pool)} are there")
    order = pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))]
    return dict(zip(sizes, order.split([*sizes.values(), len(pool) - sum(sizes.values())]), strict=False))


def make_split(
    store: Store, rows: Mapping[str, str | None], sizes: Mapping[str, Size], seed: int, group_by: str | None
) -> dict[str, Tensor]:
    """The split of a data file. Isolated atoms belong to no set: they are references, not molecules to learn from.

    Args:
        store: the data file.
        rows: for each set the name of a set of rows, a word, or a file, from which it is drawn; see `MoleculeData`.
        sizes: of each set.
        seed: of the draws.
        group_by: "composition" or a kind of word, to draw whole groups; null to draw molecules.

    Raises:
        InputError: for a name that the data do not know, sets that overlap, or more molecules than there are.
    """
    everything = torch.from_numpy(np.flatnonzero(~isolated_atoms(np.diff(store["ptr"]), store.get("pbc"))))
    pools = {name: _named(store, wanted) for name, wanted in rows.items() if wanted not in (None, REST)}
    for name, pool in pools.items():
        if len(pool) and (pool.min() < 0 or pool.max() > len(store["ptr"]) - 2):
            there = f"0 to {len(store['ptr']) - 2}"
            raise InputError(f"the rows {rows[name]} for {name} are {pool.min()} to {pool.max()}, there are {there}")
        pools[name] = pool[torch.isin(pool, everything)]
    for one, other in combinations(pools, 2):
        if shared := int(torch.isin(pools[one], pools[other]).sum()):
            raise InputError(
                f"{shared} molecules are both in {rows[one]} and in {rows[other]}: choose sets that belong together"
            )
    named = torch.cat([everything[:0], *pools.values()])
    rest = [name for name, wanted in rows.items() if wanted == REST]
    if len(rest) > 1:
        raise InputError(f"only one of train_rows, val_rows and test_rows can be {REST!r}, not {' and '.join(rest)}")
    pools |= {name: everything[~torch.isin(everything, named)] for name in rest}
    if group_by is None:
        return draw_split(everything, pools, sizes, seed)
    return group_split(_groups(store, group_by), everything, pools, sizes, seed)


def draw_split(
    everything: Tensor, pools: Mapping[str, Tensor], sizes: Mapping[str, Size], seed: int
) -> dict[str, Tensor]:
    """Draw training and validation sets, then a test set from what they leave.

    Args:
        everything: all indices.
        pools: the indices that a set of `SPLITS` may hold; for training, if not given, everything but the other pools;
            for validation the pool of training; for test everything that is not used.
        sizes: of each set, a number, or a fraction of its pool if below 1; null for all that are left.
        seed: of the draws.

    Raises:
        InputError: if more are asked for than there are.
    """
    reserved = torch.cat([everything[:0], *(pools[name] for name in ("val", "test") if name in pools)])
    shared = pools.get("train", everything[~torch.isin(everything, reserved)])
    counts = {name: _count(sizes[name], len(pools.get(name, shared))) for name in SPLITS}
    later = 0 if "test" in pools or "train" in pools else counts["test"]
    together = ["train", "val"] if "val" not in pools else ["train"]
    missing = [name for name in together if counts[name] is None]
    if len(missing) > 1 or (missing and later is None):
        raise InputError("only one of train, val and test can take all that are left: give the others a size")
    for name in missing:
        counts[name] = len(shared) - sum(counts[other] for other in together if other != name) - later
        if counts[name] < 1:
            raise InputError(f"nothing is left for {name}: there are {len(shared)} to draw from")
    split = random_split(shared, {name: counts[name] for name in together}, seed)
    if "val" in pools:
        split |= random_split(pools["val"], {"val": _all(counts["val"], pools["val"])}, seed)
    used = torch.cat([split["train"], split["val"], reserved])
    rest = pools.get("test", everything[~torch.isin(everything, used)])
    return split | random_split(rest, {"test": _all(counts["test"], rest)}, seed)


def group_split(
    groups: Tensor, everything: Tensor, pools: Mapping[str, Tensor], sizes: Mapping[str, Size], seed: int
) -> dict[str, Tensor]:
    """Like `draw_split`, but draws whole groups: no group has members in two sets. Sizes count groups.

    Args:
        groups: a number for each molecule, the same for members of the same group.
        everything: all indices.
        pools: the indices that a set may hold.
        sizes: numbers or fractions of groups.
        seed: of the draws.
    """
    group_pools = {name: groups[pool].unique() for name, pool in pools.items()}
    drawn = draw_split(groups[everything].unique(), group_pools, sizes, seed)
    return {
        name: (pool := pools.get(name, everything))[torch.isin(groups[pool], members)]
        for name, members in drawn.items()
    }


def check_split(split: Mapping[str, Tensor], molecules: int) -> None:
    """Refuse a split whose sets share molecules, name one twice, or name one that is not there.

    Raises:
        InputError: saying how many and which is the first.
    """
    seen = torch.full((molecules,), -1, dtype=torch.long)
    for number, name in enumerate(SPLITS):
        rows = split[name]
        if len(rows) and (rows.min() < 0 or rows.max() >= molecules):
            raise InputError(f"the {name} set names molecules {rows.min()} to {rows.max()}, of 0 to {molecules - 1}")
        shared = rows[seen[rows] >= 0]
        if len(shared):
            other = SPLITS[seen[shared[0]]]
            raise InputError(f"{len(shared)} molecules, {shared[0]} first, are in the {other} and in the {name} set")
        if len(rows.unique()) < len(rows):
            raise InputError(f"the {name} set names {len(rows) - len(rows.unique())} molecules twice")
        seen[rows] = number


def describe_split(split: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes of the sets, and a hash of their indices."""
    digest = hashlib.sha256()
    for name in SPLITS:
        digest.update(name.encode() + split[name].numpy().tobytes())
    return {name: len(split[name]) for name in SPLITS} | {"sha256": digest.hexdigest()}


def write_split(split: Mapping[str, Tensor], path: Path) -> None:
    """Write the indices to an npz file with arrays train, val and test."""
    write_npz(path, {name: split[name].numpy() for name in SPLITS})


def read_split(path: Path) -> dict[str, Tensor]:
    """A split from an npz file, with arrays train, val, test, or SchNetPack's train_idx, val_idx, test_idx.

    Raises:
        InputError: if an array is missing, or does not list indices.
    """
    split = {}
    with open_npz(path) as file:
        for name in SPLITS:
            key = next((key for key in (name, f"{name}_idx") if key in file.files), None)
            if key is None:
                raise InputError(f"{path} has no array {name} or {name}_idx; it has {', '.join(file.files)}")
            split[name] = _indices(array_of(file, key, path), f"{key} of {path}")
    return split


def read_rows(path: Path) -> Tensor:
    """Indices from a text file (numbers apart by spaces, commas or lines), a npy file, or a JSON list; from 0."""
    try:
        if path.suffix == ".npy":
            rows = np.load(path, allow_pickle=False)
        elif path.suffix == ".json":
            rows = np.array(json.loads(path.read_text()))
        else:
            rows = np.array(path.read_text().replace(",", " ").split()).astype(np.int64)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} does not list row numbers: {error}") from None
    return _indices(rows, str(path))


def _named(store: Store, name: str) -> Tensor:
    """The molecules of a set of rows, of a word, or of a list in a file."""
    if f"rows.{name}" in store:
        return torch.from_numpy(store[f"rows.{name}"].copy())
    words: dict[str, list[str]] = store.metadata["words"]
    kind, _, word = name.rpartition("=")
    found = [other for other, known in words.items() if word in known and kind in ("", other)]
    if len(found) > 1:
        raise InputError(
            f"{word!r} is a word of several kinds: say {' or '.join(f'{other}={word}' for other in found)}"
        )
    for other in found:
        return torch.from_numpy(np.flatnonzero(store[f"words.{other}"] == words[other].index(word)))
    if Path(name).is_file():
        return read_rows(Path(name))
    sets = [row.removeprefix("rows.") for row in store if row.startswith("rows.")]
    sets += [f"{kind}={word}" for kind, known in words.items() for word in known[:20]]
    raise InputError(f"the data have no set of rows, word or file {name!r}; there are: {', '.join(sets) or 'none'}")


def _groups(store: Store, kind: str) -> Tensor:
    """A number for each molecule, equal for members of the same group."""
    if kind == "composition":
        return torch.from_numpy(compositions(store))
    if kind not in store.metadata["words"]:
        known = ", ".join(["composition", *store.metadata["words"]])
        raise InputError(f"the data have no groups {kind!r}; there are: {known}")
    return torch.from_numpy(store[f"words.{kind}"].astype(np.int64))


def _indices(rows: np.ndarray, what: str) -> Tensor:
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise InputError(f"{what} must list row numbers; it holds {rows.dtype} of shape {list(rows.shape)}")
    return torch.from_numpy(rows.astype(np.int64))


def _count(size: Size, pool: int) -> int | None:
    """A size as a number: fractions are of the pool."""
    return round(size * pool) if isinstance(size, float) and 0 < size < 1 else None if size is None else int(size)


def _all(count: int | None, pool: Tensor) -> int:
    return len(pool) if count is None else count
