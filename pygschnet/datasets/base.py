"""What every data set offers: a `LightningDataModule` with a split that has its own seed."""

import hashlib
from abc import ABC, abstractmethod
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from torch_geometric.data import Batch

from pygschnet.datasets.molecules import Molecules, Selection
from pygschnet.errors import InputError

SPLITS = ("train", "val", "test")


class MoleculeData(LightningDataModule, ABC):
    """A data set and its split into training, validation and test molecules.

    Args:
        batch_size: molecules per training batch.
        eval_batch_size: molecules per batch of validation, test and prediction.
        num_workers: processes that prepare batches; 0 prepares them in the training process.
    """

    def __init__(self, batch_size: int, eval_batch_size: int, num_workers: int):
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1:
            raise InputError(f"batch sizes must be 1 or more, got {batch_size} and {eval_batch_size}")
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.molecules: Molecules | None = None
        self.split: dict[str, Tensor] = {}

    @abstractmethod
    def read(self) -> tuple[Molecules, dict[str, Tensor]]:
        """The molecules and the indices of each of `SPLITS`."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Where the data come from, for the record of a run: path, hash, units."""

    def setup(self, stage: str) -> None:
        """Read the data, once."""
        if self.molecules is None:
            self.molecules, self.split = self.read()

    def describe_split(self) -> dict[str, Any]:
        """Sizes of the split and a hash of its indices."""
        digest = hashlib.sha256()
        for name in SPLITS:
            digest.update(name.encode() + self.split[name].numpy().tobytes())
        return {name: len(self.split[name]) for name in SPLITS} | {"sha256": digest.hexdigest()}

    def train_dataloader(self) -> DataLoader:
        """Batches of the training molecules, shuffled."""
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Batches of the validation molecules."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> DataLoader:
        """Batches of the test molecules."""
        return self._loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader:
        """Batches of all molecules, in the order of the file."""
        return self._loader(None, self.eval_batch_size)

    def _loader(self, name: str | None, batch_size: int, shuffle: bool = False) -> DataLoader:
        assert self.molecules is not None, "setup has not been called"
        indices = torch.arange(len(self.molecules)) if name is None else self.split[name]
        return DataLoader(
            Selection(self.molecules, indices),
            batch_size=batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=_already_a_batch,
        )


def random_split(pool: Tensor, sizes: dict[str, int], seed: int) -> dict[str, Tensor]:
    """Draw disjoint sets at random from a pool of indices, in the order of `sizes`.

    Args:
        pool: the indices to draw from.
        sizes: how many to draw for each name.
        seed: of the draw, apart from every other seed.

    Raises:
        InputError: if more are asked for than there are.
    """
    wanted = " + ".join(f"{size} for {name}" for name, size in sizes.items())
    if min(sizes.values()) < 0:
        raise InputError(f"sizes of a split must not be negative: {wanted}")
    if sum(sizes.values()) > len(pool):
        raise InputError(f"{wanted} = {sum(sizes.values())} structures asked for, but only {len(pool)} are there")
    order = pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))]
    return dict(zip(sizes, order.split([*sizes.values(), len(pool) - sum(sizes.values())]), strict=False))


def _already_a_batch(batch: Batch) -> Batch:
    return batch
