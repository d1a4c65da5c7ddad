"""ISO17: trajectories of isomers of C7H10O2, in ASE databases."""

import gzip
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pygschnet.datasets.base import MoleculeData
from pygschnet.datasets.border import Block
from pygschnet.datasets.download import download
from pygschnet.datasets.readers import read_ase
from pygschnet.datasets.splits import read_rows
from pygschnet.errors import InputError

URL = "http://www.quantum-machine.org/datasets/iso17.tar.gz"
KEYS = {"energy": "total_energy", "forces": "atomic_forces"}
ROWS = {"train": "train_ids.txt", "validation": "validation_ids.txt"}


class ISO17(MoleculeData):
    """ISO17: molecular dynamics of isomers of C7H10O2, to learn chemistry and conformation at once.

    Args:
        root: folder that holds the folder iso17 with the databases; the archive is downloaded to it if it is not there.
        unknown: test on other molecules than those of the training ("test_other"), instead of on other steps of the
            same trajectories ("test_within").
        equilibrium: use the relaxed molecules instead (reference_eq and test_eq), whose forces are zero; they have no
            official validation set, so give `train` and `val`.
        train: number of training structures; null for all of train_ids.txt.
        val: number of validation structures; null for all of validation_ids.txt.

    Source: arXiv:1706.08566; PBE+vdW-TS, in eV and Å. The id files count rows from 1.
    """

    def __init__(
        self,
        root: str = "data",
        unknown: bool = True,
        equilibrium: bool = False,
        train: int | float | None = None,
        val: int | float | None = None,
        **common: Any,
    ):
        reference = "reference_eq" if equilibrium else "reference"
        test = "test_eq" if equilibrium else "test_other" if unknown else "test_within"
        super().__init__(
            train=train,
            val=val,
            train_rows=reference if equilibrium else "train",
            val_rows=None if equilibrium else "validation",
            test_rows=test,
            **common,
        )
        self.root, self.databases, self.equilibrium = Path(root), (reference, test), equilibrium

    def files(self) -> list[Path]:
        folder = self.root / "iso17"
        names = [f"{name}.db" for name in self.databases] + ([] if self.equilibrium else list(ROWS.values()))
        paths = [folder / name for name in names]
        if not all(path.exists() for path in paths):
            archive = download([URL], self.root / "iso17.tar.gz", magic=b"\x1f\x8b")
            with tempfile.TemporaryDirectory(dir=self.root) as unpacked:  # all of it or nothing
                try:
                    with gzip.open(archive) as content, tarfile.open(fileobj=content) as tar:
                        tar.extractall(unpacked, filter="data")
                        while content.read(1 << 20):  # to the checksum at its end
                            pass
                except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
                    raise InputError(f"{archive} is damaged ({error}): delete it to download it again") from None
                folder.mkdir(exist_ok=True)
                for path in Path(unpacked, "iso17").iterdir():
                    path.replace(folder / path.name)
        return paths

    def settings(self) -> dict[str, Any]:
        return {}

    def blocks(self) -> Iterator[Block]:
        for path in self.files():
            if path.suffix == ".db":
                for block in read_ase(path, KEYS, {}):
                    block.words["file"] = [path.stem] * len(block.n_atoms)
                    yield block

    def row_sets(self) -> Mapping[str, np.ndarray]:
        if self.equilibrium:
            return {}
        return {name: read_rows(self.root / "iso17" / file).numpy() - 1 for name, file in ROWS.items()}
