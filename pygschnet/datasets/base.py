"""What every data set offers: a `LightningDataModule` with units, a split that has its own seed, and fast batches."""

import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from pygschnet.datasets.border import Block
from pygschnet.datasets.convert import (
    cache_folder,
    cached,
    field_names,
    write_edges_file,
    write_molecules,
)
from pygschnet.datasets.loader import make_loader
from pygschnet.datasets.molecules import Molecules, Selection
from pygschnet.datasets.readers import check_file
from pygschnet.datasets.sampler import BatchSampler
from pygschnet.datasets.splits import (
    Size,
    check_split,
    describe_split,
    make_split,
    read_split,
    write_split,
)
from pygschnet.datasets.store import FORMAT, Store
from pygschnet.errors import InputError
from pygschnet.graph import Backend, RadiusGraph


class MoleculeData(LightningDataModule, ABC):
    """A data set and its split into training, validation and test molecules.

    The raw files are read once, checked, and converted to eV and Å in a memory-mapped file in the cache, which all
    processes share and which opens at once the next time.

    Args:
        train: number of training molecules, or their fraction if below 1; null for all that are left.
        val: number or fraction of validation molecules.
        test: number or fraction of test molecules.
        train_rows: where training molecules, and validation molecules if val_rows is null, are drawn from: the name of
            a set of rows in the data ("train_01" of rMD17), a word such as a file's name or "config_type=MD_300K", or
            a file that lists row numbers from 0; null or "rest" for all molecules but those of the other two.
        val_rows: the same for validation molecules; "rest" draws them from what neither of the others names.
        test_rows: the same for test molecules.
        group_by: draw whole groups, so that a molecule in the test set is unknown to the training: "composition", or a
            kind of word in the data such as "group"; the sizes then count groups.
        split_file: npz file with the arrays train, val and test, as every run writes one; instead of all of the above.
        split_seed: of the random draw, apart from the seed of the training.
        batch_size: molecules per training batch, of all processes of a parallel training together.
        eval_batch_size: molecules per batch of validation, test and prediction.
        max_atoms: fill training batches with as many molecules as have this many atoms, instead of batch_size; in
            all processes together.
        max_edges: the same with edges.
        shuffle_seed: of the order of the training molecules, which differs from epoch to epoch.
        num_workers: processes that prepare batches; 0 prepares them in the training process.
        cutoff: radius of the edges in Å; null for all pairs. The command line takes it from the model.
        edges: "torch_cluster", "vesin", or "auto" for the first that is installed.
        store_edges: find the edges once and keep them in the cache; if false, anew for every batch.
        cache: folder for converted files; null for PYGSCHNET_CACHE, or pygschnet in the user's cache folder.
    """

    def __init__(
        self,
        train: int | float | None = 0.8,
        val: int | float | None = 0.1,
        test: int | float | None = None,
        train_rows: str | None = None,
        val_rows: str | None = None,
        test_rows: str | None = None,
        group_by: str | None = None,
        split_file: str | None = None,
        split_seed: int = 0,
        batch_size: int = 32,
        eval_batch_size: int = 256,
        max_atoms: int | None = None,
        max_edges: int | None = None,
        shuffle_seed: int = 0,
        num_workers: int = 0,
        cutoff: float | None = None,
        edges: Backend = "auto",
        store_edges: bool = True,
        cache: str | None = None,
    ):
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1:
            raise InputError(f"batch sizes must be 1 or more, got {batch_size} and {eval_batch_size}")
        if train is not None and train <= 0:
            raise InputError(f"at least one training molecule is needed, got train = {train}")
        if max_atoms is not None and max_edges is not None:
            raise InputError("give max_atoms or max_edges, not both")
        if max_edges is not None and not store_edges:
            raise InputError("max_edges needs to know the edges of all molecules: set store_edges to true")
        self.sizes: dict[str, Size] = {"train": train, "val": val, "test": test}
        self.rows = {"train": train_rows, "val": val_rows, "test": test_rows}
        self.group_by, self.split_file, self.split_seed = group_by, split_file, split_seed
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.max_atoms, self.max_edges, self.shuffle_seed = max_atoms, max_edges, shuffle_seed
        self.graph, self.store_edges = RadiusGraph(cutoff, edges), store_edges
        self.cache = Path(cache) if cache else cache_folder()
        self.molecules: Molecules | None = None
        self.split: dict[str, Tensor] = {}
        self._resumed_at = 0
        self.batch_atoms = self.batch_edges = 0.0  # of an average training batch

    def state_dict(self) -> dict[str, int]:
        """How many batches have been trained on, for checkpoints."""
        return {"batches": self._position()}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on behind the batches that have been trained on."""
        self._resumed_at = state_dict["batches"]

    def teardown(self, stage: str) -> None:
        """Let the next training begin at the beginning."""
        self._resumed_at = 0

    def _position(self) -> int:
        if self.trainer is None:
            return self._resumed_at
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return progress.started or self._resumed_at

    @abstractmethod
    def files(self) -> list[Path]:
        """The raw files, downloaded if they are not there yet."""

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """All molecules of the raw files."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All arguments that decide what `blocks` gives, in terms of JSON."""

    def row_sets(self) -> Mapping[str, np.ndarray]:
        """Named sets of molecules that the files define, such as official splits."""
        return {}

    def isolated_atoms(self) -> Mapping[str, float]:
        """Energies of isolated atoms by element in eV, if the data set has them apart from its molecules."""
        return {}

    def prepare_data(self) -> None:
        """Convert the raw files, and find the edges, unless that has been done."""
        self.convert()

    def setup(self, stage: str) -> None:
        """Open the converted data and draw the split, once."""
        if self.molecules is None:
            self.store, edges = self.convert()
            self.molecules = Molecules(self.store, *field_names(self.store.metadata), self.graph, edges)
            for text in self.store.metadata["suspicions"]:
                warnings.warn(f"{self.store.metadata['source']['class']} data: {text}", stacklevel=2)
        if not self.split and stage != "predict":
            split = self._draw()
            check_split(split, len(self.molecules))
            self.split = split

    def convert(self) -> tuple[Store, Store | None]:
        """The converted data and their edges, made first if they are not in the cache.

        Of several processes that want the same at once one converts and the others wait.
        """
        files = self.files()
        for path in files:
            check_file(path)
        if [path.suffix for path in files] == [".safetensors"]:  # converted by hand
            store = Store(files[0])
        else:
            key = json.dumps([type(self).__name__, FORMAT, self.settings(), [str(path.resolve()) for path in files]])
            name = f"{files[0].name.split('.')[0]}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.safetensors"
            states = [[path.stat().st_size, path.stat().st_mtime_ns] for path in files]
            store = cached(self.cache / name, {"states": states}, self.write)
        if not self.store_edges:
            return store, None
        if store.metadata.get("cutoff") == self.graph.cutoff:
            return store, store
        geometry = {name: store.metadata["sha256"][name] for name in ("ptr", "pos", "cell", "pbc") if name in store}
        mark = hashlib.sha256(json.dumps(geometry).encode()).hexdigest()[:12]
        path = self.cache / f"{store.path.stem}-{mark}-edges-{self.graph.cutoff:g}.safetensors"
        wanted = {"geometry": geometry, "cutoff": self.graph.cutoff}
        return store, cached(path, wanted, lambda path, extra: write_edges_file(path, store, self.graph, extra))

    def write(self, path: Path, extra: Mapping[str, Any] | None = None, edges: bool = False) -> None:
        """Convert the raw files to a data file.

        Args:
            path: of the file to write.
            extra: entries for its metadata.
            edges: whether to store the edges with it.
        """
        metadata = {"source": self.describe_source(), "isolated_atoms": dict(self.isolated_atoms()), **(extra or {})}
        write_molecules(path, self.blocks(), self.row_sets(), metadata, self.graph if edges else None)

    def describe_source(self) -> dict[str, Any]:
        """What was read and how: class, settings, and the hash of each file."""
        hashes = {}
        for path in self.files():
            with path.open("rb") as file:
                hashes[str(path)] = hashlib.file_digest(file, "sha256").hexdigest()
        return {"class": type(self).__name__, **self.settings(), "files": hashes}

    def describe(self) -> dict[str, Any]:
        """Where the data come from, for the record of a run."""
        return self.store.metadata["source"] | {"split_seed": self.split_seed}

    def describe_split(self) -> dict[str, Any]:
        """Sizes of the split and a hash of its indices."""
        return describe_split(self.split)

    def label_units(self) -> dict[str, str]:
        """Of the labels, by their names."""
        return {name: field["unit"] for name, field in self.store.metadata["fields"].items()}

    def keep_split(self, path: Path) -> None:
        """Write the split to a file, for `split_file`; if it is there already, it must be the same.

        Raises:
            InputError: if it differs.
        """
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_split(self.split, path)
        elif describe_split(read_split(path)) != self.describe_split():
            raise InputError(f"the split is not that of {path}, with which this training began: set split_file to it")

    @property
    def reference_energies(self) -> dict[str, float]:
        """Energies of isolated atoms by element in eV, from the data set or from single atoms among the molecules."""
        return self.store.metadata["isolated_atoms"]

    def train_dataloader(self) -> DataLoader:
        """Batches of the training molecules, shuffled; of each the share of this process.

        Every pass over a loader is another epoch, with an order of its own. Without Lightning's trainer keep one loader
        for all epochs: a new one begins with the order of the first.
        """
        molecules = self._molecules()
        train = self.split["train"].numpy()
        atoms = np.diff(molecules.arrays["ptr"])[train]
        edges = atoms if molecules.edges is None else np.diff(molecules.edges["edge_ptr"])[train]
        sizes, budget = np.ones(len(train), np.int64), self.batch_size
        if self.max_atoms is not None:
            sizes, budget = atoms, self.max_atoms
        if self.max_edges is not None:
            sizes, budget = edges, self.max_edges
        position = self._position if self.trainer else None
        sampler = BatchSampler(sizes, budget, True, self.shuffle_seed, atoms + edges, position)
        self.batch_atoms, self.batch_edges = atoms.sum() / len(sampler), edges.sum() / len(sampler)
        return self._loader("train", sampler)

    def val_dataloader(self) -> DataLoader:
        """Batches of the validation molecules."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        """Batches of the test molecules."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader:
        """Batches of all molecules, in the order of the file."""
        return self._loader(None)

    def _loader(self, name: str | None, sampler: BatchSampler | None = None) -> DataLoader:
        indices = torch.arange(len(self._molecules())) if name is None else self.split[name]
        sampler = sampler or BatchSampler(np.ones(len(indices), np.int64), self.eval_batch_size)
        return make_loader(Selection(self._molecules(), indices), sampler, self.num_workers)

    def _draw(self) -> dict[str, Tensor]:
        if self.split_file is not None:
            return read_split(Path(self.split_file))
        return make_split(self.store, self.rows, self.sizes, self.split_seed, self.group_by)

    def _molecules(self) -> Molecules:
        assert self.molecules is not None, "setup has not been called"
        return self.molecules
