"""MD17, rMD17 and every npz file in their layouts: frames of one molecule."""

import io
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pygschnet.datasets.base import MoleculeData
from pygschnet.datasets.border import Block
from pygschnet.datasets.download import download
from pygschnet.datasets.readers import array_of, open_npz, read_npz, row_sets
from pygschnet.errors import InputError
from pygschnet.files import write_npz

LAYOUTS = {
    "md17": {"z": "z", "pos": "R", "energy": "E", "forces": "F"},
    "rmd17": {"z": "nuclear_charges", "pos": "coords", "energy": "energies", "forces": "forces"},
    "rmd17_old": {"z": "nuclear_charges", "pos": "coords", "energy": "old_energies", "forces": "old_forces"},
}
"""Names of the arrays in a file. `rmd17_old` are the labels of MD17 that files of rMD17 carry along."""

MD17_URL = "http://quantum-machine.org/gdml/data/npz/{}.npz"
MD17_FILES = {
    "benzene": "md17_benzene2017",
    "uracil": "md17_uracil",
    "naphthalene": "md17_naphthalene",
    "aspirin": "md17_aspirin",
    "salicylic": "md17_salicylic",
    "malonaldehyde": "md17_malonaldehyde",
    "ethanol": "md17_ethanol",
    "toluene": "md17_toluene",
    "paracetamol": "paracetamol_dft",
    "azobenzene": "azobenzene_dft",
    "benzene2018": "benzene2018_dft",
}
"""Files of MD17. benzene is that of 2017, as in the papers of GDML and SchNet; benzene2018 is of another theory."""

RMD17_URLS = (
    "https://figshare.com/ndownloader/files/23950376",
    "https://archive.materialscloud.org/record/file?filename=rmd17.tar.bz2&record_id=466",
)


class MD17(MoleculeData):
    """Frames of one molecule from an npz file in the layout of MD17 (also sGDML's) or rMD17.

    The labels are in kcal/mol and Å unless the file says otherwise. Do not train on more than 1,000 frames of rMD17:
    they are correlated.

    Args:
        path: the npz file; null to download the molecule.
        molecule: to download, if no path is given: aspirin, azobenzene, benzene (of 2017), benzene2018 (MD17 only),
            ethanol, malonaldehyde, naphthalene, paracetamol, salicylic, toluene or uracil.
        revised: download rMD17 (all molecules at once) instead of MD17.
        root: folder for downloads.
        layout: "md17" (z, R, E, F), "rmd17" (nuclear_charges, coords, energies, forces), "rmd17_old" (the same with
            old_energies, old_forces) or "auto", which takes the first of these that the file has.
        energy_unit: of the file; if null what the file says in e_unit, else kcal/mol.
        length_unit: of the file; if null what the file says in r_unit, else Å.
        train: number of training frames.
        val: number of validation frames.

    Source: Chmiela et al., Sci. Adv. 3, e1603015 (2017); Christensen and von Lilienfeld, arXiv:2007.09593.
    """

    def __init__(
        self,
        path: str | None = None,
        molecule: str | None = None,
        revised: bool = False,
        root: str = "data",
        layout: Literal["auto", "md17", "rmd17", "rmd17_old"] = "auto",
        energy_unit: str | None = None,
        length_unit: str | None = None,
        train: int | float | None = 950,
        val: int | float | None = 50,
        **common: Any,
    ):
        super().__init__(train=train, val=val, **common)
        if (path is None) == (molecule is None):
            raise InputError("give either the path of a file, or the molecule to download")
        if (molecule is not None and molecule not in MD17_FILES) or (revised and molecule == "benzene2018"):
            raise InputError(f"there is no molecule {molecule!r}; there are: {', '.join(MD17_FILES)}")
        self.path, self.molecule, self.revised, self.root = path, molecule or "", revised, Path(root)
        self.layout, self.energy_unit, self.length_unit = layout, energy_unit, length_unit

    def files(self) -> list[Path]:
        if self.path is not None:
            return [Path(self.path)]
        if not self.revised:
            name = MD17_FILES[self.molecule]
            return [download([MD17_URL.format(name)], self.root / "md17" / f"{name}.npz", magic=b"PK")]
        archive = self.root / "rmd17" / "rmd17.tar.bz2"
        path = self.root / "rmd17" / f"rmd17_{self.molecule}.npz"
        if not path.exists():
            extract_rmd17(download(RMD17_URLS, archive, magic=b"BZh"), self.molecule, path)
        return [path]

    def settings(self) -> dict[str, Any]:
        (path,) = self.files()
        with open_npz(path) as file:
            energy = self.energy_unit or (
                str(array_of(file, "e_unit", path).astype(str)) if "e_unit" in file else "kcal/mol"
            )
            length = self.length_unit or (str(array_of(file, "r_unit", path).astype(str)) if "r_unit" in file else "Å")
            return {"keys": self._keys(path, file.files), "units": {"energy": energy, "pos": length}}

    def blocks(self) -> Iterator[Block]:
        (path,) = self.files()
        yield from read_npz(path, **self.settings())

    def row_sets(self) -> Mapping[str, np.ndarray]:
        (path,) = self.files()
        return row_sets(path, self.settings()["keys"])

    def _keys(self, path: Path, available: list[str]) -> dict[str, str | None]:
        layouts = LAYOUTS if self.layout == "auto" else [self.layout]
        layout = next((name for name in layouts if LAYOUTS[name]["energy"] in available), next(iter(layouts)))
        keys = LAYOUTS[layout]
        missing = [key for name, key in keys.items() if name != "forces" and key not in available]
        if missing:
            raise InputError(
                f"{path} has no {', '.join(missing)}, which the layout {layout} needs; it has {', '.join(available)}. "
                f"Choose another layout ({', '.join(LAYOUTS)}), or the data set Files, which takes any names"
            )
        return {name: key if key in available else None for name, key in keys.items()}


def extract_rmd17(archive: Path, molecule: str, path: Path) -> None:
    """Take one molecule and the official splits out of the archive of rMD17, into one npz file.

    Raises:
        InputError: if the archive is damaged or has no such molecule.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = Path(member.name).name
                if name == f"rmd17_{molecule}.npz":
                    with np.load(io.BytesIO(_content(tar, member)), allow_pickle=False) as file:
                        arrays |= {key: file[key] for key in file.files}
                elif name.startswith("index_") and name.endswith(".csv"):
                    rows = _content(tar, member).split()
                    arrays[name.removeprefix("index_").removesuffix(".csv")] = np.array(rows, np.int64)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise InputError(f"{archive} is damaged ({error}): delete it to download it again") from None
    if "coords" not in arrays:
        raise InputError(f"{archive} has no molecule {molecule}")
    write_npz(path, arrays)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return b"" if file is None else file.read()
