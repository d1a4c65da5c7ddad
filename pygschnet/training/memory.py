"""How much memory a training takes, before it does, and what to do if it is too much."""

import os

import torch

from pygschnet.model import AtomisticModel
from pygschnet.representations import SchNet

PER_FEATURE = 24
"""Numbers kept per atom, feature and interaction block for the two backward passes, measured: bench-cpu.json."""

PER_PAIR = 40
"""Numbers kept per pair of neighbours."""

PER_WEIGHT = 5
"""Numbers per weight: itself, its average, its gradient, and the two moments of Adam; SOAP has about four more."""


def training_megabytes(model: AtomisticModel, atoms: float, pairs: float) -> float | None:
    """About how much memory a training step on energies and forces takes, without Python and libraries, in MB.

    Args:
        model: the model.
        atoms: in a batch.
        pairs: of neighbours in a batch.

    Returns:
        None for representations whose needs are not known.
    """
    representation = model.representation
    if not isinstance(representation, SchNet):
        return None
    width = max(representation.features, representation.filters)
    activations = PER_FEATURE * representation.interactions * width * atoms + PER_PAIR * pairs
    weights = PER_WEIGHT * sum(parameter.numel() for parameter in model.parameters())
    return 4 * (activations + weights) / 1e6


def device_megabytes(device: torch.device) -> float:
    """The memory of a device, in MB."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 1e6
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


ADVICE = (
    "out of memory. Take smaller batches and collect their gradients (--data.batch_size 16 with "
    "--trainer.accumulate_grad_batches 2 gives those of 32), bound them where molecules differ (--data.max_edges), "
    "share them among more processes (--trainer.devices), or evaluate fewer at a time (--data.eval_batch_size)"
)
