"""Conversion: blocks of molecules into a data file, with what is said about them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from tqdm import tqdm

from pygschnet.datasets.border import Block
from pygschnet.datasets.molecules import Molecules, write_edges
from pygschnet.datasets.store import Columns, Store, writing
from pygschnet.errors import InputError
from pygschnet.graph import MAX_Z, RadiusGraph


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
        fields: dict[str, dict[str, str]] = {}
        isolated: dict[str, float] = {}
        molecules = atoms = 0
        for block in tqdm(blocks, "converting", delay=1, leave=False, unit=" blocks"):
            kinds = {"atom": block.atoms, "molecule": block.molecules}
            here = {name: {"per": per} for per, arrays in kinds.items() for name in arrays}
            fields = fields or here
            if here != fields:
                differ = ", ".join(sorted(here.keys() ^ fields.keys())) or "the shape of a field"
                raise InputError(f"from molecule {molecules} on the data differ in {differ}: give all the same fields")
            for name, array in (block.atoms | block.molecules).items():
                columns.append(name, array)
            for kind, entries in block.words.items():
                known = words.setdefault(kind, {})
                codes = [known.setdefault(entry, len(known)) for entry in entries]
                columns.append(f"words.{kind}", np.array(codes, np.int32))
            isolated |= _isolated(block)
            columns.append("ptr", atoms + np.cumsum(block.n_atoms))
            molecules, atoms = molecules + len(block.n_atoms), atoms + int(block.n_atoms.sum())
        if "pbc" in fields and not columns.read("pbc").any():  # boxes around molecules
            for name in ("cell", "pbc"):
                columns.drop(name)
                del fields[name]
        for name, indices in rows.items():
            columns.append(f"rows.{name}", indices)
        columns.metadata = {**metadata, "fields": fields, "words": {kind: list(known) for kind, known in words.items()}}
        columns.metadata["isolated_atoms"] = isolated | metadata.get("isolated_atoms", {})
        if graph is not None:
            write_edges(Molecules(_arrays(columns, fields), *field_names(columns.metadata), graph), columns)


def write_edges_file(path: Path, store: Store, graph: RadiusGraph, metadata: Mapping[str, Any]) -> None:
    """Write the edges of a data file to a file of their own."""
    with writing(path) as columns:
        write_edges(Molecules(store, *field_names(store.metadata), graph), columns)
        columns.metadata |= metadata


def element_counts(store: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The elements of a data set, and how many atoms of each are in each molecule."""
    z, ptr = store["z"], store["ptr"]
    elements = np.flatnonzero(np.bincount(z, minlength=MAX_Z + 1))
    counts = np.stack([np.add.reduceat(z == element, ptr[:-1], dtype=np.int32) for element in elements], axis=1)
    return elements, counts


def compositions(store: Mapping[str, np.ndarray]) -> np.ndarray:
    """A number for each molecule, the same for molecules of the same composition."""
    return np.unique(element_counts(store)[1], axis=0, return_inverse=True)[1].reshape(-1)


def field_names(metadata: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Names of the fields with a row per atom, and of those with a row per molecule."""
    fields = metadata["fields"].items()
    per_atom, per_molecule = ([name for name, field in fields if field["per"] == per] for per in ("atom", "molecule"))
    return per_atom, per_molecule


def _isolated(block: Block) -> dict[str, float]:
    """Energies of single atoms, the lowest of each element."""
    found: dict[str, float] = {}
    if "energy" in block.molecules and not block.molecules.get("pbc", np.zeros(1)).any():
        first = np.cumsum(block.n_atoms) - block.n_atoms
        for molecule in np.flatnonzero(block.n_atoms == 1):
            symbol = chemical_symbols[block.atoms["z"][first[molecule]]]
            found[symbol] = min(found.get(symbol, np.inf), float(block.molecules["energy"][molecule]))
    return found


def _arrays(columns: Columns, fields: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: columns.read(name) for name in ("ptr", *fields)}
