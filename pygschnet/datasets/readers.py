"""Readers: arrays out of npz, HDF5 and everything that ASE reads. What the numbers mean is decided at the border."""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from numpy.lib.npyio import NpzFile

from pygschnet.datasets.border import ALIASES, PER_ATOM, PER_MOLECULE, Block, complete_units, find_keys, make_block
from pygschnet.errors import InputError

Keys = Mapping[str, str | None]
Units = Mapping[str, str]

CHUNK = 1000  # structures that become one block


@contextmanager
def open_npz(path: Path) -> Iterator[NpzFile]:
    """An npz file, never one that would run code.

    Raises:
        InputError: if it is none, or is cut short.
    """
    check_file(path)
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not an npz file, or is cut short")
    try:
        file = np.load(path, allow_pickle=False)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not an npz file, or is damaged: {error}") from None
    with file:
        yield file


def array_of(file: NpzFile, key: str, path: Path) -> np.ndarray:
    """An array of an npz file.

    Raises:
        InputError: if it is damaged, or holds objects instead of numbers.
    """
    try:
        array = file[key]
    except (ValueError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{key} of {path} cannot be read: {error}") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{key} of {path} is no array")
    return array


def read_npz(path: Path, keys: Keys, units: Units, words: Sequence[str] = ()) -> Iterator[Block]:
    """All molecules of an npz file, in any layout of `border`.

    Args:
        path: of the file.
        keys: name of the array for each field; the usual names are tried for the others, null leaves a field out.
        units: of the fields; eV and Å, and what follows from them, if not given.
        words: names of arrays with a word for each molecule.
    """
    with open_npz(path) as file:
        found = find_keys(file.files, keys, str(path))
        raw = {name: array_of(file, key, path) for name, key in found.items()}
        raw["z"] = _numbers_of(raw["z"])
        block = make_block(raw, complete_units(units, {*found, *keys}), found, str(path))
        for word in words:
            entries = array_of(file, word, path) if word in file else np.zeros(0)
            if entries.shape != block.n_atoms.shape:
                raise InputError(f"{path} has no array {word!r} with a word for each of its molecules")
            block.words[word] = entries.astype(str).tolist()
        yield block


def row_sets(path: Path, keys: Keys) -> dict[str, np.ndarray]:
    """Arrays of an npz file that list some of its molecules by number, such as official splits."""
    with open_npz(path) as file:
        mapped = find_keys(file.files, keys, str(path))
        pos = array_of(file, mapped["pos"], path)
        molecules = len(file[mapped["n_atoms"]]) if "n_atoms" in mapped and pos.ndim == 2 else len(pos)
        sets = {}
        for key in sorted(set(file.files) - set(mapped.values())):
            try:
                rows = array_of(file, key, path)
            except InputError:  # neither read nor wanted: objects, or damaged
                continue
            listed = rows.ndim == 1 and rows.dtype.kind in "iu" and 0 < len(rows) == len(np.unique(rows))
            if listed and rows.min() >= 0 and rows.max() < molecules:
                sets[key] = rows.astype(np.int64)
        return sets


def read_hdf5(path: Path, keys: Keys, units: Units) -> Iterator[Block]:
    """All groups of an HDF5 file that hold elements and positions: ANI-1, ANI-1x, QM7-X and others.

    A group may hold one structure or many of one composition; the word `group` of each structure names the molecule:
    the group itself if it holds many, the one above if it holds one.
    """
    try:
        import h5py
    except ImportError:
        raise InputError(f"reading {path} needs h5py: pip install h5py") from None
    check_file(path)
    try:
        with h5py.File(path) as file:
            names: list[str] = []
            file.visit(names.append)
            groups = iter(dict.fromkeys(name.rpartition("/")[0] or "/" for name in names))
            held = 0
            while chunk := list(islice(groups, CHUNK)):
                for block in _blocks_of_groups({name: file[name] for name in chunk}, keys, units, str(path)):
                    held += len(block.n_atoms)
                    yield block
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} is not an HDF5 file, or is damaged: {error}") from None
    if not held:
        raise InputError(f"no group of {path} holds elements and positions: name them with keys")


def _blocks_of_groups(groups: Mapping[str, Any], keys: Keys, units: Units, source: str) -> Iterator[Block]:
    """A block for each group of many frames, and one for all that hold a single structure."""
    structures: list[dict[str, Any]] = []
    for name, group in groups.items():
        if not all(set(group) & {keys.get(field) or "", *ALIASES[field]} for field in ("z", "pos")):
            continue
        found = find_keys(list(group), keys, f"{source}, group {name},")
        raw = {field: np.asarray(group[key]) for field, key in found.items()}
        raw["z"] = _numbers_of(raw["z"])
        if raw["pos"].ndim == 2 and "n_atoms" not in raw:
            cell = raw.get("cell", np.zeros(9))
            pbc = cell.reshape(3, 3).any(axis=1) if cell.size == 9 else np.ones(3, bool)
            about = {"info": (), "numbers": raw["z"], "molecule": name.rpartition("/")[0] or "/"}
            structures.append({"pbc": pbc, **about, **raw})
        else:
            block = make_block(raw, complete_units(units, {*found, *keys}), found, f"{source}, group {name},")
            block.words["group"] = [name] * len(block.n_atoms)
            yield block
    if structures:
        held = {field: field for structure in structures for field in structure}  # whoever lacks one is refused
        not_read = {"info", "numbers", "molecule"} | ({"pbc"} if "cell" not in held else set())
        fields = {field: field for field in held if field not in not_read}
        for structure in structures:
            if "charges" in structure and structure["charges"].shape[1:] == (1,):
                structure["charges"] = structure["charges"][:, 0]
        per_atom = [field for field in fields if _is_per_atom(field, field, structures)]
        raw = _stack(structures, fields, per_atom, source, 0)
        block = make_block(raw, complete_units(units, {*fields, *keys}), fields, source, per_atom)
        block.words["group"] = [structure["molecule"] for structure in structures]
        yield block


def read_ase(path: Path, keys: Keys, units: Units, words: Sequence[str] = ()) -> Iterator[Block]:
    """All structures of an extended xyz file, an ASE database, or any other file that ASE reads.

    Args:
        path: of the file.
        keys: name for each field among the properties per atom, per structure, and of the calculator.
        units: of the fields; those of ASE if not given.
        words: names of properties to keep as words, such as config_type.
    """
    check_file(path)
    structures = _rows(path) if path.suffix == ".db" else _images(path)
    found: dict[str, str] = {}
    count = 0
    while chunk := _safely(lambda: list(islice(structures, CHUNK)), path):
        available = {key for structure in chunk for key in structure} - {"info"}
        if all(_is_isolated(structure) for structure in chunk):  # they have an energy, and need nothing else
            needed = {n: k for n, k in keys.items() if k in available or not k or n in ("energy", "z", "pos")}
            here = find_keys(available, needed, str(path))
        else:
            here = find_keys(available, keys, str(path))
            found = found or here
            if here != found:
                differ = ", ".join(sorted(here.keys() ^ found.keys()) or sorted(here.values()))
                raise InputError(f"from structure {count} on {path} differs in {differ}: set keys of those to null")
        per_atom = [name for name, key in here.items() if _is_per_atom(name, key, chunk)]
        raw = _stack(chunk, here, per_atom, str(path), count)
        complete = complete_units(units, {*here, *keys})
        block = make_block(raw, complete, here, f"{path} (from structure {count} on)", per_atom)
        for word in words:
            block.words[word] = [str(structure.get(word, "")) for structure in chunk]
        count += len(chunk)
        yield block
    if not count:
        raise InputError(f"{path} holds no structures")


def check_file(path: Path) -> None:
    """Refuse a file that is not there.

    Raises:
        InputError: naming it.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")


def _images(path: Path) -> Iterator[dict[str, Any]]:
    for atoms in ase.io.iread(path, ":", do_not_split_by_at_sign=True):
        yield _fields(atoms) | (atoms.calc.results if atoms.calc is not None else {})


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        if file.read(6) != b"SQLite":  # ASE would make one of an empty file
            raise InputError(f"{path} is not an ASE database")
    with ase.db.connect(path) as database:
        for row in database.select():
            results = {name: row[name] for name in ("energy", "forces", "stress", "dipole", "charges") if name in row}
            yield {**_fields(row.toatoms()), **row.key_value_pairs, **row.data, **results}


def _fields(atoms: Atoms) -> dict[str, Any]:
    return {**atoms.info, **atoms.arrays, "cell": atoms.cell.array, "pbc": atoms.pbc, "info": atoms.info.keys()}


def _is_isolated(structure: Mapping[str, Any]) -> bool:
    return len(structure["numbers"]) == 1 and not structure["pbc"].any()


def _safely(read: Callable[[], list[dict[str, Any]]], path: Path) -> list[dict[str, Any]]:
    """ASE's readers fail in many ways; all mean that the file is not what it should be."""
    try:
        return read()
    except (MemoryError, InputError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # not of the file's content
            raise
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {error})") from None


def _is_per_atom(name: str, key: str, chunk: list[dict[str, Any]]) -> bool:
    """Whether a property has a row per atom: ASE says so of what it keeps for a structure, but not of results."""
    if name in PER_ATOM or name in PER_MOLECULE:
        return name in PER_ATOM
    known = [structure for structure in chunk if key in structure]
    if any(key in structure["info"] for structure in known):
        return False
    return all(np.shape(structure[key])[:1] == (len(structure["numbers"]),) for structure in known)


def _stack(
    chunk: list[dict[str, Any]], found: Mapping[str, str], per_atom_fields: Sequence[str], source: str, first: int
) -> dict[str, np.ndarray]:
    n_atoms = np.array([len(structure["numbers"]) for structure in chunk])
    raw: dict[str, np.ndarray] = {"n_atoms": n_atoms}
    for name, key in found.items():
        example = next(structure[key] for structure in chunk if key in structure)
        per_atom = name in per_atom_fields
        for number, structure in enumerate(chunk, first):
            if key not in structure and _is_isolated(structure) and name != "energy":  # of it, the rest is zero
                shape = (1, *np.shape(example)[1:]) if per_atom else np.shape(example)
                structure[key] = np.zeros(shape, np.asarray(example).dtype)
            if key not in structure:
                raise InputError(
                    f"structure {number} of {source} has no {key}, others have: remove it, or set keys.{name} to null"
                )
        values = [np.asarray(structure[key]) for structure in chunk]
        try:
            raw[name] = np.concatenate(values) if per_atom else np.stack(values)
        except ValueError as error:
            raise InputError(f"{key} of {source} differs in shape between structures: {error}") from None
    return raw


def _numbers_of(z: np.ndarray) -> np.ndarray:
    """Atomic numbers, also from symbols."""
    if z.dtype.kind not in "SUO":
        return z
    symbols = [symbol.decode() if isinstance(symbol, bytes) else str(symbol) for symbol in z.ravel()]
    unknown = sorted(set(symbols) - set(atomic_numbers))
    if unknown:
        raise InputError(f"{', '.join(map(repr, unknown))} are no elements")
    return np.array([atomic_numbers[symbol] for symbol in symbols]).reshape(z.shape)
