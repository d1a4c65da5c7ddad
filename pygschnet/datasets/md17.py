"""MD17, rMD17 and every npz file in their layouts: frames of one molecule."""

import hashlib
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from pygschnet.datasets.base import MoleculeData, random_split
from pygschnet.datasets.molecules import Molecules
from pygschnet.errors import InputError
from pygschnet.graph import MAX_Z, Backend, RadiusGraph
from pygschnet.units import energy_factor, length_factor

LAYOUTS = {
    "md17": {"z": "z", "pos": "R", "energy": "E", "forces": "F"},
    "rmd17": {"z": "nuclear_charges", "pos": "coords", "energy": "energies", "forces": "forces"},
    "rmd17_old": {"z": "nuclear_charges", "pos": "coords", "energy": "old_energies", "forces": "old_forces"},
}
"""Names of the arrays in a file. `rmd17_old` are the labels of MD17 that files of rMD17 carry along."""


class MD17(MoleculeData):
    """Frames of one molecule from an npz file in the layout of MD17 (also sGDML's) or rMD17.

    Args:
        path: the npz file.
        train: number of training frames.
        val: number of validation frames.
        test: number of test frames; all that are left if null.
        train_rows: name of an array in the file with the rows to draw training and validation frames from, such as
            "train_01" of an official split; all rows if null.
        test_rows: name of an array with the rows to draw test frames from; all other rows if null.
        layout: "md17" (z, R, E, F), "rmd17" (nuclear_charges, coords, energies, forces), "rmd17_old" (the same with
            old_energies, old_forces) or "auto", which takes the first of these that the file has.
        energy_unit: of the file; if null what the file says in e_unit, else kcal/mol.
        length_unit: of the file; if null what the file says in r_unit, else Å.
        split_seed: of the random draw of the split, apart from the seed of the training.
        batch_size: frames per training batch.
        eval_batch_size: frames per batch of validation, test and prediction.
        num_workers: processes that prepare batches; 0 prepares them in the training process.
        cutoff: radius of the edges in Å; null for all pairs. The command line takes it from the model.
        edges: "torch_cluster", "vesin", or "auto" for the first that is installed.

    Source: Chmiela et al., Sci. Adv. 3, e1603015 (2017); Christensen and von Lilienfeld, arXiv:2007.09593.
    """

    def __init__(
        self,
        path: str,
        train: int = 950,
        val: int = 50,
        test: int | None = None,
        train_rows: str | None = None,
        test_rows: str | None = None,
        layout: Literal["auto", "md17", "rmd17", "rmd17_old"] = "auto",
        energy_unit: str | None = None,
        length_unit: str | None = None,
        split_seed: int = 0,
        batch_size: int = 32,
        eval_batch_size: int = 256,
        num_workers: int = 0,
        cutoff: float | None = None,
        edges: Backend = "auto",
    ):
        super().__init__(batch_size, eval_batch_size, num_workers)
        self.path, self.layout = Path(path), layout
        self.train, self.val, self.test = train, val, test
        self.train_rows, self.test_rows, self.split_seed = train_rows, test_rows, split_seed
        self.energy_unit, self.length_unit = energy_unit, length_unit
        self.graph = RadiusGraph(cutoff, edges)
        if train < 1:
            raise InputError(f"at least one training frame is needed, got train = {train}")

    def read(self) -> tuple[Molecules, dict[str, Tensor]]:
        with _open(self.path) as file:
            arrays = self._arrays(file)
            split = self._split(file, len(arrays["energy"]))
        frames, atoms = arrays["pos"].shape[:2]
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        forces = {"forces": tensors["forces"].flatten(0, 1)} if "forces" in tensors else {}
        molecules = Molecules(
            tensors["z"].repeat(frames),
            tensors["pos"].flatten(0, 1),
            torch.arange(frames + 1) * atoms,
            {"energy": tensors["energy"]},
            forces,
            self.graph,
        )
        return molecules, split

    def describe(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "sha256": hashlib.sha256(self.path.read_bytes()).hexdigest(),
            "layout": self.layout,
            "energy_unit": self.energy_unit,
            "length_unit": self.length_unit,
            "train_rows": self.train_rows,
            "test_rows": self.test_rows,
            "split_seed": self.split_seed,
        }

    def _arrays(self, file: NpzFile) -> dict[str, np.ndarray]:
        if self.layout == "auto":
            self.layout = next((name for name, keys in LAYOUTS.items() if keys["energy"] in file), "md17")
        keys = LAYOUTS[self.layout]
        missing = [key for name, key in keys.items() if name != "forces" and key not in file]
        if missing:
            raise InputError(
                f"{self.path} has no {', '.join(missing)}, which the layout {self.layout} needs; it has "
                f"{', '.join(file.files)}. Rename the arrays, or choose another layout: {', '.join(LAYOUTS)}"
            )
        self.energy_unit = self.energy_unit or _text(file, "e_unit", "kcal/mol")
        self.length_unit = self.length_unit or _text(file, "r_unit", "Å")
        energy, length = energy_factor(self.energy_unit), length_factor(self.length_unit)
        factors = {"pos": length, "energy": energy, "forces": energy / length}
        units = {"pos": self.length_unit, "energy": self.energy_unit}
        units["forces"] = f"{self.energy_unit}/{self.length_unit}"
        arrays = {}
        for name, key in keys.items():
            if key in file and name != "z":
                arrays[name] = _numbers(file, key, self.path, units[name]) * factors[name]
        arrays["z"] = _numbers(file, keys["z"], self.path, "atomic numbers").astype(np.int64)
        self._check(arrays, keys)
        arrays["energy"] = arrays["energy"].reshape(-1)
        return arrays

    def _check(self, arrays: dict[str, np.ndarray], keys: dict[str, str]) -> None:
        z, pos = arrays["z"], arrays["pos"]
        if z.ndim != 1 or len(z) == 0:
            raise InputError(f"{keys['z']} of {self.path} must list the atomic numbers, its shape is {list(z.shape)}")
        if z.min() < 1 or z.max() > MAX_Z:
            raise InputError(f"{keys['z']} of {self.path} holds {z.min()}…{z.max()}: elements are 1 to {MAX_Z}")
        frames = len(pos)
        shapes: dict[str, set[tuple[int, ...]]] = {
            "pos": {(frames, len(z), 3)},
            "energy": {(frames,), (frames, 1)},
            "forces": {(frames, len(z), 3)},
        }
        for name, expected in shapes.items():
            if name in arrays and arrays[name].shape not in expected:
                raise InputError(
                    f"{keys[name]} of {self.path} has the shape {list(arrays[name].shape)}; "
                    f"{frames} frames of {len(z)} atoms need {' or '.join(str(list(shape)) for shape in expected)}"
                )

    def _split(self, file: NpzFile, frames: int) -> dict[str, Tensor]:
        pool = self._rows(file, self.train_rows, frames)
        split = random_split(pool, {"train": self.train, "val": self.val}, self.split_seed)
        used = torch.cat([split["train"], split["val"]])
        if self.test_rows is None:
            rest = torch.arange(frames)
            rest = rest[~torch.isin(rest, used)]
        else:
            rest = self._rows(file, self.test_rows, frames)
            shared = torch.isin(rest, used).sum().item()
            if shared:
                raise InputError(
                    f"{shared} frames of {self.test_rows} are also used for training or validation "
                    f"(from {self.train_rows or 'all rows'}): choose sets that belong together"
                )
        size = len(rest) if self.test is None else self.test
        return split | random_split(rest, {"test": size}, self.split_seed)

    def _rows(self, file: NpzFile, key: str | None, frames: int) -> Tensor:
        if key is None:
            return torch.arange(frames)
        if key not in file:
            raise InputError(f"{self.path} has no rows {key!r}; it has {', '.join(file.files)}")
        rows = torch.from_numpy(_numbers(file, key, self.path, "row numbers").astype(np.int64))
        if rows.dim() != 1 or len(rows) == 0 or rows.min() < 0 or rows.max() >= frames:
            raise InputError(f"{key} of {self.path} must list rows between 0 and {frames - 1}")
        return rows


def _open(path: Path) -> NpzFile:
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not an npz file, or is cut short")
    return np.load(path, allow_pickle=False)


def _text(file: NpzFile, key: str, default: str) -> str:
    return str(file[key]) if key in file else default


def _numbers(file: NpzFile, key: str, path: Path, unit: str) -> np.ndarray:
    try:
        array = file[key]
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{key} of {path} cannot be read: {error}") from None
    if array.dtype.kind not in "fiu":
        raise InputError(f"{key} of {path} holds {array.dtype}, not numbers")
    array = array.astype(np.float64)
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise InputError(
            f"{key} of {path} (in {unit}) holds {len(bad)} values that are not finite, "
            f"the first {array[tuple(bad[0])]} at {bad[0].tolist()}: remove those frames"
        )
    return array
