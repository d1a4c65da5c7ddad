"""Your own files, and the published sets whose files need nothing more: QM7-X and ANI-1."""

from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import units as ase_units

from pygschnet.datasets.base import MoleculeData
from pygschnet.datasets.border import Block
from pygschnet.datasets.readers import read_ase, read_hdf5, read_npz, row_sets
from pygschnet.errors import InputError

ANI1_ATOMS = {"H": -0.500607632585, "C": -37.8302333826, "N": -54.5680045287, "O": -75.0362229210}
"""Energies of isolated atoms in Ha, ωB97X/6-31G(d), from the read-me of ANI-1."""


class Files(MoleculeData):
    """Molecules or crystals from files of your own.

    Single atoms among them are taken for isolated atoms, whose energies `references: data` of the head subtracts; they
    belong to no split. With several files, each file's name (without its ending) is a word that train_rows and
    test_rows understand.

    Args:
        path: one file or several: extended xyz (.xyz, .extxyz), ASE database (.db), .npz, HDF5 (.h5, .hdf5), a
            converted .safetensors, or anything that ASE reads.
        keys: name in the file of each field: energy, forces, stress, virial, dipole, charge, charges, pos, z, cell, or
            one of your own; usual names are found without, and null leaves a field out.
        units: of the fields in the file, such as {energy: kcal/mol}; eV and Å if not given, and what follows from the
            units of energy and pos for forces, stress and virial.
        words: properties whose values name kinds of structures, such as config_type, for splits.
    """

    def __init__(
        self,
        path: str | list[str],
        keys: dict[str, str | None] | None = None,
        units: dict[str, str] | None = None,
        words: list[str] | None = None,
        **common: Any,
    ):
        super().__init__(**common)
        self.paths = _paths(path)
        self.keys, self.units, self.words = keys or {}, units or {}, words or []

    def files(self) -> list[Path]:
        return self.paths

    def settings(self) -> dict[str, Any]:
        return {"keys": self.keys, "units": self.units, "words": self.words}

    def blocks(self) -> Iterator[Block]:
        yield from _read(self.paths, self.keys, self.units, self.words)

    def row_sets(self) -> Mapping[str, np.ndarray]:
        return row_sets(self.paths[0], self.keys) if [path.suffix.lower() for path in self.paths] == [".npz"] else {}


class _Published(MoleculeData, ABC):
    """A published set whose files need nothing but their units.

    Args:
        path: one file or several.
    """

    units: ClassVar[dict[str, str]]

    def __init__(self, path: str | list[str], **common: Any):
        super().__init__(**common)
        self.paths = _paths(path)

    def files(self) -> list[Path]:
        return self.paths

    def settings(self) -> dict[str, Any]:
        return {"units": self.units}

    def blocks(self) -> Iterator[Block]:
        yield from _read(self.paths, {}, self.units)


class QM7X(_Published):
    """QM7-X: 4.2 million structures of 7,000 molecules with up to seven heavy atoms, at and away from equilibrium.

    The files are 1000.hdf5 to 8000.hdf5, unpacked, or npz with arrays of the same names. The word `group` of a
    structure names its molecule, for `group_by: group`.

    Source: Hoja et al., Sci. Data 8, 43 (2021); PBE0+MBD, in eV and Å.
    """

    units: ClassVar = {"energy": "eV"}


class ANI1(_Published):
    """ANI-1: 22 million structures of molecules of H, C, N and O away from equilibrium, with energies.

    The files are ani_gdb_s01.h5 to ani_gdb_s08.h5. The word `group` of a structure names its molecule, for
    `group_by: group`.

    Source: Smith, Isayev and Roitberg, Sci. Data 4, 170193 (2017); ωB97X/6-31G(d), in Ha and Å.
    """

    units: ClassVar = {"energy": "Ha"}

    def isolated_atoms(self) -> Mapping[str, float]:
        return {symbol: energy * ase_units.Hartree for symbol, energy in ANI1_ATOMS.items()}


def _paths(path: str | list[str]) -> list[Path]:
    if not path:
        raise InputError("give at least one file")
    return [Path(path)] if isinstance(path, str) else [Path(one) for one in path]


def _read(
    paths: Sequence[Path], keys: Mapping[str, str | None], units: Mapping[str, str], words: Sequence[str] = ()
) -> Iterator[Block]:
    for path in paths:
        if path.suffix.lower() == ".npz":
            blocks = read_npz(path, keys, units, words)
        elif path.suffix.lower() in (".h5", ".hdf5"):
            if words:
                raise InputError(f"words are read from npz and from files of ASE, not from {path}")
            blocks = read_hdf5(path, keys, units)
        else:
            blocks = read_ase(path, keys, units, words)
        for block in blocks:
            block.words["file"] = [path.stem] * len(block.n_atoms)
            yield block
