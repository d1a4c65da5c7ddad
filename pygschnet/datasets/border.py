"""The border: arrays as files hold them come in, checked arrays in eV and Å go on.

Three layouts are understood: frames of one composition (z [atoms], pos [frames, atoms, 3]), frames padded with zeros
(z [frames, most atoms]; how many atoms are real may stand in n_atoms), and flat (n_atoms [molecules], everything else
one after the other).
"""

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from pygschnet.elements import MAX_Z
from pygschnet.errors import InputError
from pygschnet.units import UNITS, inside_unit, unit_factor

PER_ATOM = {"z": (), "pos": (3,), "forces": (3,), "charges": ()}
PER_MOLECULE = {
    "energy": (),
    "cell": (3, 3),
    "pbc": (3,),
    "stress": (3, 3),
    "virial": (3, 3),
    "dipole": (3,),
    "charge": (),
}

ALIASES = {
    "n_atoms": ("n_atoms", "N", "natoms", "num_atoms"),
    "z": ("z", "Z", "nuclear_charges", "atomic_numbers", "numbers", "species", "atNUM"),
    "pos": ("pos", "R", "positions", "coords", "coordinates", "atXYZ"),
    "cell": ("cell", "lattice", "box"),
    "pbc": ("pbc",),
    "energy": ("energy", "E", "energies", "REF_energy", "total_energy", "E_eV", "ePBE0+MBD"),
    "forces": ("forces", "F", "force", "REF_forces", "atomic_forces", "F_eV_A", "totFOR"),
    "stress": ("stress", "REF_stress"),
    "virial": ("virial", "virials"),
    "dipole": ("dipole", "D", "vDIP"),
    "charge": ("charge", "Q", "total_charge"),
    "charges": ("charges", "hCHG"),
}
"""Names that files give to each field, the likeliest first."""

_VOIGT = [[0, 5, 4], [5, 1, 3], [4, 3, 2]]  # xx yy zz yz xz xy, as in ASE


@dataclass
class Block:
    """Some molecules, one after the other, in the units of the package.

    Args:
        n_atoms: how many atoms each molecule has.
        atoms: fields with a row per atom.
        molecules: fields with a row per molecule.
        words: one word for each molecule, by kind, such as the file it comes from.
        units: of the fields, where they have one.
    """

    n_atoms: np.ndarray
    atoms: dict[str, np.ndarray]
    molecules: dict[str, np.ndarray]
    words: dict[str, list[str]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)

    @property
    def isolated(self) -> np.ndarray:
        """Which molecules are isolated atoms: single and not periodic."""
        return isolated_atoms(self.n_atoms, self.molecules.get("pbc"))


def isolated_atoms(n_atoms: np.ndarray, pbc: np.ndarray | None) -> np.ndarray:
    """Which molecules are single atoms without periodic images."""
    return (n_atoms == 1) & (True if pbc is None else ~pbc.any(axis=1))


def find_keys(available: Collection[str], keys: Mapping[str, str | None], source: str) -> dict[str, str]:
    """Which key of a file holds which field.

    Args:
        available: the keys of the file.
        keys: those the user names, by field, null for a field to leave out; the usual names are tried for others.
        source: the file, for messages.

    Raises:
        InputError: for a key that is not there, with the nearest that is; if positions or elements are not found.
    """
    found = {name: key for name, key in keys.items() if key is not None}
    for name, key in found.items():
        if key not in available:
            raise InputError(f"{source} has no {key!r} for {name}{_nearest(key, available)}")
    for name, aliases in ALIASES.items():
        if name not in keys:
            usual = next((key for key in aliases if key in available and key not in keys.values()), None)
            found |= {name: usual} if usual else {}
    for name in ("z", "pos"):
        if name not in found:
            raise InputError(f"{source} has no {name}{_nearest(name, available)}; name it with keys: {{{name}: …}}")
    return found


def complete_units(units: Mapping[str, str], fields: Collection[str] = ()) -> dict[str, str]:
    """The unit of every field of a file, those not given following from energy and length.

    Args:
        units: those that are given, by field.
        fields: of the file, besides those of `UNITS`.

    Raises:
        InputError: for a unit that is not known or does not fit its quantity, and for units of unknown fields.
    """
    for name in units.keys() - UNITS.keys() - set(fields):
        raise InputError(f"a unit is given for {name!r}, which is no field{_nearest(name, UNITS.keys() | set(fields))}")
    energy, length = units.get("energy", UNITS["energy"]), units.get("pos", UNITS["pos"])
    for unit, quantity in ((energy, "energy"), (length, "pos")):
        unit_factor(unit, quantity)
    complete = {"forces": f"{energy}/{length}", "stress": f"{energy}/{length}^3", "virial": energy, "cell": length}
    complete = {**UNITS, "energy": energy, "pos": length, **complete, **units}
    for name, unit in complete.items():
        unit_factor(unit, name if name in UNITS else None)
    return complete


def make_block(
    raw: Mapping[str, np.ndarray],
    units: Mapping[str, str],
    names: Mapping[str, str],
    source: str,
    per_atom_too: Collection[str] = (),
) -> Block:
    """Check shapes and numbers, bring all layouts to the flat one, and convert the units.

    Args:
        raw: arrays of a file by field.
        units: of the fields, complete.
        names: of the fields in the file, for messages.
        source: the file, for messages.
        per_atom_too: fields of the user's own that are known to have a row per atom.

    Raises:
        InputError: naming field, file and place of whatever cannot be used.
    """
    called = {name: f"{names.get(name, name)} of {source}" for name in raw}
    if "n_atoms" in raw and (raw["n_atoms"] % 1).any():
        raise InputError(f"{called['n_atoms']} holds numbers of atoms that are no whole numbers")
    for name, array in raw.items():
        _check_numbers(array, called[name], units.get(name, "no unit"))
    n_atoms, flatten, frames = _layout(raw, called)
    block = Block(n_atoms, {}, {})
    for name, array in raw.items():
        if name == "n_atoms":
            continue
        per_atom = name in per_atom_too or _is_per_atom(name, array, frames)
        if name == "z":
            array = np.broadcast_to(array, frames)
        leading = frames if per_atom else (len(n_atoms),)
        if name in PER_ATOM and array.shape == (*frames, *PER_ATOM[name], 1):
            array = array[..., 0]
        rows = array if per_atom else _per_molecule(name, array, len(n_atoms))
        rest = (PER_ATOM | PER_MOLECULE).get(name, rows.shape[len(leading) :])
        if rows.shape != (*leading, *rest):
            raise InputError(
                f"{called[name]} has the shape {list(array.shape)}; {len(n_atoms)} molecules of {n_atoms.sum()} atoms "
                f"need {[*leading, *rest]}"
            )
        rows = flatten(rows) if per_atom else rows
        if name in units:
            block.units[name] = inside_unit(units[name])
            factor = np.float64(unit_factor(units[name]))
            rows = rows if factor == 1.0 and rows.dtype.kind == "f" else rows * factor  # as precise as it came
        if rows.dtype.kind in "iu":
            rows = rows.astype(np.int64)
        (block.atoms if per_atom else block.molecules)[name] = rows
    _check_elements(block.atoms["z"], called["z"])
    block.atoms["z"] = block.atoms["z"].astype(np.uint8)
    _complete_cells(block, source)
    return block


def _layout(
    raw: Mapping[str, np.ndarray], called: Mapping[str, str]
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray], tuple[int, ...]]:
    """Atoms of each molecule, a function that makes arrays flat, and the leading shape of arrays per atom."""
    z, pos = raw["z"], raw["pos"]
    if z.size == 0:
        raise InputError(f"{called['z']} must list the atomic numbers, its shape is {list(z.shape)}")
    if pos.size == 0:
        raise InputError(f"{called['pos']} is empty, its shape is {list(pos.shape)}")
    if pos.ndim not in (2, 3) or pos.shape[-1] != 3:
        raise InputError(f"{called['pos']} has the shape {list(pos.shape)}; [frames, atoms, 3] or [atoms, 3] is needed")
    if pos.ndim == 2:
        n_atoms = raw["n_atoms"].astype(np.int64) if "n_atoms" in raw else np.array([len(pos)])
        if n_atoms.ndim != 1 or n_atoms.sum() != len(pos) or z.shape != pos.shape[:1] or n_atoms.min(initial=1) < 1:
            raise InputError(
                f"{called['pos']} has {len(pos)} atoms, {called['z']} the shape {list(z.shape)}, and "
                f"{called.get('n_atoms', 'one molecule')} {n_atoms.sum()} atoms together: "
                "these must agree, above 0 each"
            )
        return n_atoms, lambda array: array, (len(pos),)
    frames = pos.shape[:2]
    if z.shape not in (frames, frames[1:]):
        raise InputError(
            f"{called['pos']} has the shape {list(pos.shape)}; {called['z']} of {list(z.shape)} needs "
            f"[frames, {z.shape[-1]}, 3]"
        )
    real: np.ndarray = np.ones(frames, dtype=bool)
    if "n_atoms" in raw:
        if raw["n_atoms"].size != frames[0] or raw["n_atoms"].max() > frames[1]:
            raise InputError(
                f"{called['n_atoms']} must have {frames[0]} numbers up to {frames[1]}, as {called['pos']} has"
            )
        real = np.arange(frames[1]) < raw["n_atoms"].reshape(-1, 1)
    if z.ndim == 2 and "n_atoms" not in raw:
        real = np.asarray(z != 0)
    if not real.any(axis=1).all():
        raise InputError(f"molecule {int(np.argmin(real.any(axis=1)))} has no atoms: leave it out of {called['z']}")
    if real.all():
        return real.sum(1), lambda array: array.reshape(-1, *array.shape[2:]), frames
    return real.sum(1), lambda array: array[real], frames


def _is_per_atom(name: str, array: np.ndarray, frames: tuple[int, ...]) -> bool:
    """Whether an array has a row per atom; [frames, 3] of a field of one's own is a vector per molecule."""
    if name in PER_ATOM or name in PER_MOLECULE:
        return name in PER_ATOM
    return array.shape[: len(frames)] == frames and not (len(frames) == array.ndim == 2 and frames[1] == 3)


def _per_molecule(name: str, array: np.ndarray, molecules: int) -> np.ndarray:
    if molecules == 1 and array.shape[:1] != (1,):
        array = array[np.newaxis]  # of a single structure
    if name in ("cell", "pbc") and array.ndim == len(PER_MOLECULE[name]):
        array = np.broadcast_to(array, (molecules, *array.shape))
    if name in ("stress", "virial") and array.shape[1:] == (6,):
        array = array[:, _VOIGT]
    if name in ("cell", "stress", "virial") and array.shape[1:] == (9,):
        array = array.reshape(-1, 3, 3)
    return array.reshape(-1) if array.shape[1:] == (1,) else array


def _complete_cells(block: Block, source: str) -> None:
    """Every cell has its pbc, and a virial becomes a stress."""
    molecules = block.molecules
    if "cell" in molecules and "pbc" not in molecules:
        molecules["pbc"] = np.asarray(molecules["cell"].any(axis=-1))
    if "pbc" in molecules:
        molecules["pbc"] = molecules["pbc"].astype(bool)
        if "cell" not in molecules:
            raise InputError(f"{source} has pbc, but no cell")
        flat = np.abs(np.linalg.det(molecules["cell"])) < 1e-3  # Å³
        flat &= molecules["pbc"].all(1)
        flat |= (molecules["pbc"] & ~molecules["cell"].any(axis=-1)).any(1)
        if flat.any():
            raise InputError(f"cell of {source}: molecule {int(flat.argmax())} is periodic in a cell without volume")
    virial = molecules.pop("virial", None)
    if virial is not None and "stress" not in molecules and "cell" in molecules:
        block.units["stress"] = UNITS["stress"]
        volume = np.abs(np.linalg.det(molecules["cell"])).reshape(-1, 1, 1)
        molecules["stress"] = np.where(volume > 0, -virial / np.where(volume > 0, volume, 1), 0.0)


def _check_elements(z: np.ndarray, called: str) -> None:
    if z.min() < 1 or z.max() > MAX_Z or (z % 1).any():
        raise InputError(f"{called} holds {z.min():g}…{z.max():g}: elements are 1 to {MAX_Z}")


def _check_numbers(array: np.ndarray, called: str, unit: str) -> None:
    if array.dtype.kind not in "fiub":
        raise InputError(f"{called} holds {array.dtype}, not numbers")
    if array.dtype.itemsize < 4 and array.dtype.kind == "f":
        raise InputError(f"{called} holds half-precision numbers, which are too coarse")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise InputError(
            f"{called} (in {unit}) holds {len(bad)} values that are not finite, the first {array[tuple(bad[0])]} at "
            f"{bad[0].tolist()}: remove those frames"
        )


def _nearest(key: str, available: Iterable[str]) -> str:
    close = difflib.get_close_matches(key.lower(), {name.lower(): name for name in available}, 1, 0.5)
    names = [name for name in available if close and name.lower() == close[0]]
    return (f"; did you mean {names[0]!r}?" if names else "") + f" It has {', '.join(sorted(available))}"
