"""QM9: 133,885 molecules at their equilibrium, with fifteen properties."""

import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase.data import atomic_numbers

from pygschnet.datasets.base import MoleculeData
from pygschnet.datasets.border import Block, complete_units, make_block
from pygschnet.datasets.download import download
from pygschnet.errors import InputError
from pygschnet.units import unit_factor

PROPERTIES = {
    "A": "GHz",
    "B": "GHz",
    "C": "GHz",
    "mu": "Debye",
    "alpha": "a0^3",
    "homo": "Ha",
    "lumo": "Ha",
    "gap": "Ha",
    "r2": "a0^2",
    "zpve": "Ha",
    "U0": "Ha",
    "U": "Ha",
    "H": "Ha",
    "G": "Ha",
    "Cv": "cal/mol/K",
}
"""Properties in the order of the raw files, and their units there."""

PYG_ORDER = ("mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv")
"""The first columns of y in PyG's processed file; Cv is in cal/mol/K there, energies are in eV."""

REFERENCES = ("zpve", "U0", "U", "H", "G", "Cv")
"""Columns of the table of atom references."""

URLS = {
    "dsgdb9nsd.xyz.tar.bz2": "https://ndownloader.figshare.com/files/3195389",
    "uncharacterized.txt": "https://ndownloader.figshare.com/files/3195404",
    "qm9_v3.zip": "https://data.pyg.org/datasets/qm9_v3.zip",
    "atomref.txt": "https://ndownloader.figshare.com/files/3195395",
}
MAGIC = {".bz2": b"BZh", ".zip": b"PK", ".txt": b""}
CHUNK = 5000  # molecules that become one block
UNCHARACTERIZED = 3054


class QM9(MoleculeData):
    """QM9: small organic molecules at their equilibrium geometries, energies and twelve other properties.

    All properties are fields of each molecule under their usual names (mu, alpha, homo, lumo, gap, r2, zpve, U0, U, H,
    G, Cv, A, B, C) in eV, Å, e·Å, K and GHz. There are no forces.

    Args:
        root: folder of the raw files, where they are downloaded to if they are not there: dsgdb9nsd.xyz.tar.bz2,
            uncharacterized.txt and atomref.txt of figshare, or qm9_v3.zip of PyG.
        source: "raw", or "pyg" for PyG's processed file, which has float32 labels and 130,831 molecules.
        target: the property that is learnt as the energy.
        remove_uncharacterized: leave out the 3,054 molecules whose geometry fell apart in the consistency check.
        train: number of training molecules.
        val: number of validation molecules.

    Source: Ramakrishnan et al., Sci. Data 1, 140022 (2014); B3LYP/6-31G(2df,p).
    """

    def __init__(
        self,
        root: str = "data/qm9",
        source: Literal["raw", "pyg"] = "raw",
        target: str = "U0",
        remove_uncharacterized: bool = True,
        train: int | float | None = 110_000,
        val: int | float | None = 1_000,
        **common: Any,
    ):
        super().__init__(train=train, val=val, **common)
        known = PROPERTIES if source == "raw" else PYG_ORDER
        if target not in known:
            raise InputError(f"QM9 has no property {target!r}; it has {', '.join(known)}")
        self.root, self.source, self.target = Path(root), source, target
        self.remove_uncharacterized = remove_uncharacterized

    def files(self) -> list[Path]:
        names = [name for name in URLS if (name == "qm9_v3.zip") == (self.source == "pyg") or name == "atomref.txt"]
        return [download([URLS[name]], self.root / name, magic=MAGIC[Path(name).suffix]) for name in names]

    def settings(self) -> dict[str, Any]:
        return {"source": self.source, "target": self.target, "remove_uncharacterized": self.remove_uncharacterized}

    def blocks(self) -> Iterator[Block]:
        files = {path.name: path for path in self.files()}
        if self.source == "pyg":
            blocks = read_pyg(files["qm9_v3.zip"])
        else:
            skip = read_uncharacterized(files["uncharacterized.txt"]) if self.remove_uncharacterized else set()
            blocks = read_raw(files["dsgdb9nsd.xyz.tar.bz2"], skip)
        for block in blocks:
            block.molecules["energy"] = block.molecules[self.target]
            block.units["energy"] = block.units[self.target]
            yield block

    def isolated_atoms(self) -> Mapping[str, float]:
        if self.target not in REFERENCES:
            return {}
        table = read_references(next(path for path in self.files() if path.name == "atomref.txt"))
        return {symbol: energies[self.target] for symbol, energies in table.items()}


def read_raw(path: Path, skip: set[int]) -> Iterator[Block]:
    """The archive of raw files, in the order of their numbers.

    Args:
        path: of dsgdb9nsd.xyz.tar.bz2.
        skip: numbers of the molecules to leave out, from 1.
    """
    molecules: dict[int, bytes] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and member.name.endswith(".xyz"):
                    number = int(member.name[-10:-4])
                    if number not in skip:
                        molecules[number] = tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}): delete it to download it again") from None
    ordered = iter(sorted(molecules))
    while numbers := list(islice(ordered, CHUNK)):
        yield _block([read_xyz(molecules.pop(number), f"molecule {number} of {path}") for number in numbers], str(path))


def read_xyz(content: bytes, source: str) -> dict[str, np.ndarray]:
    """One file in the format of QM9, whose numbers may be written as 1.2*^-6.

    Raises:
        InputError: if it is not in this format.
    """
    try:
        lines = content.decode("ascii").replace("*^", "e").splitlines()
        n_atoms = int(lines[0])
        _, number, *values = lines[1].split()
        rows = [line.split() for line in lines[2 : 2 + n_atoms]]
        numbers = np.array([row[1:5] for row in rows], np.float64).reshape(n_atoms, 4)
        properties = dict(zip(PROPERTIES, np.array(values, np.float64), strict=True))
        z = np.array([atomic_numbers[row[0]] for row in rows])
    except (ValueError, KeyError, IndexError) as error:
        raise InputError(f"{source} is not in the format of QM9: {error}") from None
    return {"z": z, "pos": numbers[:, :3], "charges": numbers[:, 3], "gdb_id": int(number), **properties}


def read_pyg(path: Path) -> Iterator[Block]:
    """PyG's processed file, a list of dictionaries of tensors, read without running what it holds."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("qm9_v3.pt") as file:
            molecules = torch.load(file, weights_only=True)
        read = [_from_pyg(molecule) for molecule in molecules]
    except Exception as error:  # of a damaged archive, in many ways
        why = type(error).__name__  # torch's text would advise to run what is in it
        raise InputError(f"{path} cannot be read ({why}): delete it to download it again") from None
    units = PROPERTIES | {name: "eV" for name in PYG_ORDER if PROPERTIES[name] == "Ha"}
    for first in range(0, len(read), CHUNK):
        yield _block(read[first : first + CHUNK], str(path), units)


def _from_pyg(molecule: Mapping[str, Any]) -> dict[str, Any]:
    fields = {"z": molecule["z"].numpy(), "pos": molecule["pos"].double().numpy(), "gdb_id": int(molecule["idx"]) + 1}
    return fields | dict(zip(PYG_ORDER, molecule["y"][0, : len(PYG_ORDER)].double().numpy(), strict=True))


def read_uncharacterized(path: Path) -> set[int]:
    """Numbers, from 1, of the molecules that failed the consistency check.

    Raises:
        InputError: if there are not 3,054 of them.
    """
    rows = [line.split() for line in path.read_text(errors="replace").splitlines()]
    numbers = {int(row[0]) for row in rows if len(row) > 1 and row[0].isdigit()}
    if len(numbers) != UNCHARACTERIZED:
        raise InputError(
            f"{path} lists {len(numbers)} molecules instead of {UNCHARACTERIZED}: delete it to download again"
        )
    return numbers


def read_references(path: Path) -> dict[str, dict[str, float]]:
    """Energies of the isolated atoms in eV, by element and property.

    Raises:
        InputError: if the file does not have them for H, C, N, O and F.
    """
    rows = re.findall(r"^\s*(H|C|N|O|F)\s+([-+.\deE\s]+?)\s*$", path.read_text(errors="replace"), re.M)
    factors = [unit_factor(PROPERTIES[name]) for name in REFERENCES]
    table = {
        symbol: dict(zip(REFERENCES, (np.array(row.split(), np.float64) * factors).tolist(), strict=True))
        for symbol, row in rows
        if len(row.split()) == len(REFERENCES)
    }
    if len(table) != 5:
        raise InputError(f"{path} has no table of atom references for H, C, N, O and F: delete it to download it again")
    return table


def _block(molecules: list[dict[str, Any]], source: str, units: Mapping[str, str] = PROPERTIES) -> Block:
    raw = {
        name: np.concatenate([one[name] for one in molecules])
        if name in ("z", "pos", "charges")
        else np.array([one[name] for one in molecules])
        for name in molecules[0]
    }
    raw["n_atoms"] = np.array([len(one["z"]) for one in molecules])
    return make_block(raw, complete_units(units, PROPERTIES), {}, source)
