"""What a training will cost: time, by training a few steps; memory, by counting."""

import contextlib
import logging
import os
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
import torch

from pygschnet.datasets import MoleculeData
from pygschnet.doctor.problems import Problem
from pygschnet.training import AtomisticModule
from pygschnet.training.memory import ADVICE, device_megabytes, is_out_of_memory, training_megabytes

WARM_UP = 3
"""Steps that are not timed: compilers and caches are at work."""

SECONDS = 5.0
"""How long to train, and to validate, at most; at least one step is timed."""

STEPS = 60


class Stopwatch(pl.Callback):
    """Times batches, from the end of the warm-up on, and stops when that is enough."""

    def __init__(self) -> None:
        self.ends: list[float] = []  # of what came before, and of each batch

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._note(pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._note(pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self._note(pl_module)
        trainer.should_stop = len(self.ends) > WARM_UP + 1 and self.ends[-1] - self.ends[WARM_UP] > SECONDS

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self._note(pl_module)

    def _note(self, module: pl.LightningModule) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Of a batch; the median, which other processes disturb least."""
        taken = [end - begin for begin, end in pairwise(self.ends)]
        return statistics.median(taken[min(WARM_UP, len(taken) - 1) :])


def estimate(
    module: AtomisticModule, data: MoleculeData, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Problem]]:
    """Memory and time of a training, the latter from a few steps that really train; and what will go wrong.

    Without enough memory nothing is timed, and there are no facts.

    Args:
        module: which this trains a little.
        data: set up.
        settings: of the Trainer: max_steps, max_epochs, val_check_interval, check_val_every_n_epoch.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = data.train_dataloader()
    pairs = (data.batch_edges if data.store_edges else next(iter(loader)).edge_index.shape[1]) / 2
    needed, there = training_megabytes(module.model, data.batch_atoms, pairs), device_megabytes(device)
    if needed is not None and needed > 0.8 * there:
        return {}, [Problem(f"a step takes {needed:.0f} MB of {there:.0f} MB: {ADVICE}", True)]
    steps, validation = Stopwatch(), Stopwatch()
    try:
        with quiet():
            limits = {"max_steps": WARM_UP + STEPS, "limit_val_batches": 0, "num_sanity_val_steps": 0}
            _trainer(device, steps, **limits).fit(module, data)
            if len(data.split["val"]):
                _trainer(device, validation, limit_val_batches=8).validate(module, data, verbose=False)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return {}, [Problem(ADVICE, True)]
        raise
    facts: dict[str, Any] = {
        "device": device.type,
        "structures": len(data.split["train"]),
        "seconds per step": steps.seconds,
        "steps per epoch": len(loader),
        "seconds per epoch": len(loader) * steps.seconds,
        "atoms per step": data.batch_atoms,
        "pairs per step": pairs,
        "megabytes": needed,
        "megabytes there": there,
    }
    if len(validation.ends) > 1:
        facts["seconds per validation"] = validation.seconds * len(data.val_dataloader())
    if total := whole(settings, len(loader)):
        passes = total / between_validations(settings, len(loader))
        facts |= {"steps": total, "validations": int(passes)}
        facts["seconds"] = total * steps.seconds + int(passes) * facts.get("seconds per validation", 0.0)
    problems = []
    if device.type == "cpu" and hasattr(os, "getloadavg") and os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1):
        busy = f"the load is {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
        problems.append(Problem(f"other processes were at work ({busy}): end them, or the times hold with them", False))
    return facts, problems


def whole(settings: Mapping[str, Any], epoch: int) -> int | None:
    """Steps of a training, at most; None if nothing ends it.

    Args:
        settings: of the Trainer.
        epoch: steps of an epoch.
    """
    steps, epochs = settings.get("max_steps", -1), settings.get("max_epochs")
    limits = [limit for limit in (steps, (epochs or -1) * epoch) if limit > 0]
    return min(limits, default=None)


def between_validations(settings: Mapping[str, Any], epoch: int) -> float:
    """Steps from one validation to the next; arguments as of `whole`."""
    every, epochs = settings.get("val_check_interval"), settings.get("check_val_every_n_epoch", 1)
    if isinstance(every, int):
        return float(max(1, every))
    return epoch * (epochs or 1) * (1.0 if every is None else every)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Lets Lightning not say what it is about to do."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _trainer(device: torch.device, callback: pl.Callback, **settings: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator=device.type,
        devices=1,
        callbacks=[callback],
        inference_mode=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
