"""Conversion: blocks of molecules into a data file, with what is said about them."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from filelock import FileLock
from tqdm import tqdm

from pygschnet.datasets.border import Block
from pygschnet.datasets.checks import suspicions
from pygschnet.datasets.molecules import Molecules, write_edges
from pygschnet.datasets.store import Store, writing
from pygschnet.elements import MAX_Z
from pygschnet.errors import InputError
from pygschnet.graph import RadiusGraph


def write_molecules(
    path: Path,
    blocks: Iterable[Block],
    rows: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    graph: RadiusGraph | None = None,
) -> None:
    """Write a data file, whole or not at all, in little more memory than one block.

    Args:
        path: of the file.
        blocks: the molecules, all with the same fields.
        rows: named sets of molecules.
        metadata: said about them; isolated_atoms is completed with the energies of single atoms among the molecules.
        graph: how to find edges that are stored with them; null for none.

    Raises:
        InputError: if a field is missing in some of the molecules.
    """
    with writing(path) as columns:
        columns.append("ptr", np.zeros(1, np.int64))
        words: dict[str, dict[str, int]] = {}
        isolated: dict[str, float] = {}
        molecules = atoms = 0
        first, rest = _first_with_bonds(blocks)
        fields = _fields(first[-1]) if first else {}
        for block in tqdm(chain(first, rest), "converting", delay=1, leave=False, unit=" blocks"):
            _complete_single_atoms(block, first[-1])
            here = _fields(block)
            if here != fields:
                differ = ", ".join(sorted(here.keys() ^ fields.keys())) or "the shape of a field"
                raise InputError(f"from molecule {molecules} on the data differ in {differ}: give all the same fields")
            for name, array in (block.atoms | block.molecules).items():
                columns.append(name, array)
            for kind in {**words, **block.words}:  # in the same order every time
                if kind not in words:
                    words[kind] = {"": 0} if molecules else {}  # of those so far
                    columns.append(f"words.{kind}", np.zeros(molecules, np.int32))
                entries = block.words.get(kind, [""] * len(block.n_atoms))
                codes = [words[kind].setdefault(entry, len(words[kind])) for entry in entries]
                columns.append(f"words.{kind}", np.array(codes, np.int32))
            isolated |= _isolated(block)
            columns.append("ptr", atoms + np.cumsum(block.n_atoms))
            molecules, atoms = molecules + len(block.n_atoms), atoms + int(block.n_atoms.sum())
        if molecules == 0:
            raise InputError(f"there are no molecules in {', '.join(metadata['source']['files'])}")
        if "pbc" in fields and not columns.read("pbc").any():  # boxes around molecules
            for name in ("cell", "pbc"):
                columns.drop(name)
                del fields[name]
        for name, indices in rows.items():
            columns.append(f"rows.{name}", indices)
        columns.metadata = {**metadata, "fields": fields, "words": {kind: list(known) for kind, known in words.items()}}
        columns.metadata["isolated_atoms"] = isolated | metadata.get("isolated_atoms", {})
        written = {name: columns.read(name) for name in ("ptr", *fields)}
        converted = Molecules(written, *field_names(columns.metadata), None)
        columns.metadata["suspicions"] = suspicions(converted)
        if graph is not None:
            write_edges(converted, graph, columns)


def write_edges_file(path: Path, store: Store, graph: RadiusGraph, metadata: Mapping[str, Any]) -> None:
    """Write the edges of a data file to a file of their own."""
    with writing(path) as columns:
        write_edges(Molecules(store, *field_names(store.metadata), None), graph, columns)
        columns.metadata |= metadata


def _first_with_bonds(blocks: Iterable[Block]) -> tuple[list[Block], Iterator[Block]]:
    """Blocks up to the first that is not of single atoms only, which shows what the fields are, and the others."""
    rest, first = iter(blocks), []
    for block in rest:
        first.append(block)
        if not block.isolated.all():
            break
    return first, rest


def _fields(block: Block) -> dict[str, dict[str, str]]:
    kinds = {"atom": block.atoms, "molecule": block.molecules}
    return {name: {"per": per, "unit": block.units.get(name, "")} for per, arrays in kinds.items() for name in arrays}


def _complete_single_atoms(block: Block, example: Block) -> None:
    """Isolated atoms come without forces, which are zero, and with a box or without."""
    if not block.isolated.all():
        return
    for arrays, wanted in ((block.atoms, example.atoms), (block.molecules, example.molecules)):
        for name in arrays.keys() - wanted.keys():
            del arrays[name]
        for name in wanted.keys() - arrays.keys() - {"energy"}:
            arrays[name] = np.zeros((len(block.n_atoms), *wanted[name].shape[1:]), wanted[name].dtype)
    block.units = example.units


def cache_folder() -> Path:
    """Where converted files are kept if nobody says otherwise."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("PYGSCHNET_CACHE") or home / "pygschnet" / "data")


def cached(path: Path, wanted: Mapping[str, Any], write: Callable[[Path, Mapping[str, Any]], None]) -> Store:
    """A file of the cache, written first unless it is there with the metadata that are wanted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        try:
            store = Store(path)
        except InputError:  # not there, or damaged
            store = None
        if store is None or any(store.metadata.get(name) != value for name, value in wanted.items()):
            write(path, wanted)
            store = Store(path)
        return store


def element_counts(store: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The elements of a data set, and how many atoms of each are in each molecule."""
    z, ptr = store["z"], store["ptr"]
    elements = np.flatnonzero(np.bincount(z, minlength=MAX_Z + 1))
    counts = np.stack([np.add.reduceat(z == element, ptr[:-1], dtype=np.int32) for element in elements], axis=1)
    return elements, counts


def compositions(store: Mapping[str, np.ndarray]) -> np.ndarray:
    """A number for each molecule, the same for molecules of the same composition."""
    return np.unique(element_counts(store)[1], axis=0, return_inverse=True)[1].reshape(-1)


def formula(elements: np.ndarray, counts: np.ndarray) -> str:
    """The chemical formula of a molecule with so many atoms of each element, such as C2H6O."""
    order = sorted(range(len(elements)), key=lambda k: ({6: 0, 1: 1}.get(int(elements[k]), 2), elements[k]))
    return "".join(f"{chemical_symbols[elements[k]]}{counts[k] if counts[k] > 1 else ''}" for k in order if counts[k])


def field_names(metadata: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Names of the fields with a row per atom, and of those with a row per molecule."""
    fields = metadata["fields"].items()
    per_atom, per_molecule = ([name for name, field in fields if field["per"] == per] for per in ("atom", "molecule"))
    return per_atom, per_molecule


def _isolated(block: Block) -> dict[str, float]:
    """Energies of single atoms, the lowest of each element."""
    found: dict[str, float] = {}
    if "energy" in block.molecules:
        first = np.cumsum(block.n_atoms) - block.n_atoms
        for molecule in np.flatnonzero(block.isolated):
            symbol = chemical_symbols[block.atoms["z"][first[molecule]]]
            found[symbol] = min(found.get(symbol, np.inf), float(block.molecules["energy"][molecule]))
    return found
