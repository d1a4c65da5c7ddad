"""The `DataLoader` of all data sets."""

import ctypes
import signal
import sys

from torch.utils.data import DataLoader
from torch_geometric.data import Batch

from pygschnet.datasets.molecules import Selection
from pygschnet.datasets.sampler import BatchSampler

PR_SET_PDEATHSIG = 1  # of prctl.h


class Loader(DataLoader):
    """Tells Lightning that it can resume in the middle of an epoch: the sampler knows where."""

    def state_dict(self) -> dict[str, int]:
        """Nothing: `MoleculeData.state_dict` has it."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Nothing to do."""


def make_loader(molecules: Selection, sampler: BatchSampler, workers: int) -> Loader:
    """A loader of batches that a sampler puts together.

    Args:
        molecules: of the batches.
        sampler: gives the indices of whole batches.
        workers: processes that prepare batches; 0 prepares them in this one.
    """
    return Loader(
        molecules,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=_already_a_batch,
        worker_init_fn=_begin,
    )


def _already_a_batch(batch: Batch) -> Batch:
    return batch


def _begin(worker: int) -> None:
    """Leave signals, which come to all processes of a job at once, to the training, and end if it is killed."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":  # else the training's connections stay open for seconds, and others wait for it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
