"""Interruptions: checkpoints from which a training goes on as if it had never stopped, and signals that ask for one."""

import random
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from torch import Tensor

from pygschnet.errors import InputError
from pygschnet.ranks import collect, lost_contact, rank_and_number, sum_over_ranks
from pygschnet.training.checkpoint import keep_older, remove_parts

FORMAT = 1
"""Of what checkpoints hold; a change that older versions cannot be read after counts it up."""

TRY_AGAIN = 75
"""Exit code of a training that was stopped by a signal and can go on: EX_TEMPFAIL of sysexits.h."""

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
EVERY = {"cpu": 1, "cuda": 10}
"""Steps after which several processes agree on whether to save or stop; on a GPU asking waits for it."""


class Stopped(SystemExit):
    """A signal has ended the training."""

    def __init__(self, step: int, saved: bool):
        super().__init__(TRY_AGAIN)
        self.step, self.saved = step, saved


class Checkpoints(pl.Callback):
    """Writes last.ckpt so that a resumed training gives the same bits as one that was never interrupted.

    It is written after every validation, at the end, every so many minutes, and when SIGTERM, SIGINT or SIGUSR1 asks
    the process to end, always between two batches; last-1.ckpt and last-2.ckpt are the ones before. A signal ends the
    process with exit code 75. A second SIGINT ends it at once.

    Lightning saves in the middle of things: before learning rates have followed the validation, and before other
    callbacks have seen the batch. What it resumes from there is not the same training.

    Args:
        run_dir: folder of the run.
        minutes: the longest time without a checkpoint.
    """

    def __init__(self, run_dir: str | Path, minutes: float = 30.0):
        self.path = Path(run_dir) / "checkpoints" / "last.ckpt"
        self.minutes = minutes
        self._asked = 0  # the signal that has come
        self._due = False
        self._saving = ""
        self._saved_at = time.monotonic()
        self._random: dict[str, Any] | None = None
        self._handlers: dict[int, Any] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A training that was stopped early has ended, also if it is resumed."""
        stoppers = [callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping)]
        trainer.should_stop = any(stopper.wait_count >= max(1, stopper.patience) for stopper in stoppers)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals."""
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._listen) for number in SIGNALS}
        self._asked, self._due, self._saved_at = 0, False, time.monotonic()
        # Lightning's own agreement about SIGTERM waits for the GPU at every step
        vars(trainer.fit_loop.epoch_loop)["_broadcast_sigterm_tensor"] = lambda: None
        if trainer.is_global_zero:
            remove_parts(self.path.parent)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        """Save what stands after the batch before, if that is due, and stop if a signal has asked for it."""
        end_restart(trainer)
        if self._random is not None:
            set_random_state(self._random)
            self._random = None
        if index % trainer.accumulate_grad_batches:
            return  # gradients of some batches wait for others
        overdue = time.monotonic() - self._saved_at > 60 * self.minutes
        asked, due = self._agree(trainer, bool(self._asked), self._due or overdue)
        begun = trainer.global_step > 0
        if begun and (asked or due):
            self._save(trainer, "between batches")
        if asked:
            raise Stopped(trainer.global_step, saved=begun)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        end_restart(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop if a signal has asked for it; the resumed training begins with this validation.

        Several processes have different numbers of batches here; they stop after the validation.
        """
        if not self._asked or trainer.sanity_checking or trainer.state.fn != "fit" or rank_and_number()[1] > 1:
            return
        if trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches:
            return  # gradients of some batches wait for others
        pending = trainer.global_step != trainer.max_steps
        if pending:  # else Lightning would take the training for finished, and leave the validation out
            self._save(trainer, "before validation")
        raise Stopped(trainer.global_step, saved=pending)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._due = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer, "at the end")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Say at once what has happened to another process: whoever started this one may end it, too."""
        if lost_contact(exception):
            reason = str(exception).strip().partition("\n")[0]
            print(
                f"pygschnet: error: lost contact with another process of this training ({reason}). Look for its "
                f"message; --ckpt_path last goes on from {self.path}",
                file=sys.stderr,
                flush=True,
            )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give signals back to whom they belonged."""
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the random numbers of all processes, and describe where the training stands."""
        checkpoint["pygschnet"] = {"format": FORMAT, "random": collect([random_state()])}
        if self._saving:
            stand_between_batches(checkpoint["loops"]["fit_loop"], trainer, self._saving)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse what another version of this package has written.

        Raises:
            InputError: naming the versions.
        """
        found = checkpoint.get("pygschnet", {}).get("format", 0)
        if found != FORMAT:
            raise InputError(
                f"the checkpoint has format {found}, this version resumes from format {FORMAT}: finish the training "
                "with the version that began it, or start a new one"
            )
        states = checkpoint["pygschnet"]["random"]
        rank = rank_and_number()[0]
        self._random = states[rank][0] if rank < len(states) else None

    def _listen(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._asked:
            raise KeyboardInterrupt
        self._asked = number

    def _agree(self, trainer: pl.Trainer, *wishes: bool) -> list[bool]:
        """What any process wishes, known to all at the same step."""
        if rank_and_number()[1] == 1:
            return list(wishes)
        device = trainer.strategy.root_device
        if trainer.global_step % EVERY[device.type]:
            return [False] * len(wishes)
        return [wish > 0 for wish in sum_over_ranks(torch.tensor(wishes, dtype=torch.float32, device=device)).tolist()]

    def _save(self, trainer: pl.Trainer, when: str) -> None:
        if trainer.is_global_zero:
            keep_older(self.path)
        self._saving = when
        try:
            trainer.save_checkpoint(self.path, weights_only=False)
        finally:
            self._saving = ""
        self._due, self._saved_at = False, time.monotonic()


def stand_between_batches(loops: dict[str, Any], trainer: pl.Trainer, when: str) -> None:
    """Write into the state of Lightning's loops that n batches are finished and the next has not begun.

    Args:
        loops: of `fit_loop`, in a checkpoint; changed.
        trainer: whose loops they are.
        when: "between batches", in the hook at the start of a batch; "before validation", in a validation that is to
            be run from its beginning; or "at the end" of the training.
    """
    epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    validation, stepped = loops["epoch_loop.val_loop.batch_progress"], loops["epoch_loop.state_dict"]
    done, finished = batches["current"]["started"], epochs["current"]["processed"]
    if when == "at the end" and finished == epochs["current"]["ready"]:
        if done < trainer.num_training_batches:  # Lightning counts the epoch that max_steps has cut off
            finished -= 1
        else:
            done = 0
    trained = batches["total"]["started"]
    for progress, ended in ((epochs["total"], epochs["total"]["processed"] - epochs["current"]["processed"] + finished),
                            (epochs["current"], finished)):  # fmt: skip
        progress.update(ready=ended + 1, started=ended + 1, processed=ended, completed=ended)
    batches["total"] = dict.fromkeys(batches["total"], trained)
    batches["current"] = dict.fromkeys(batches["current"], done)
    batches["is_last_batch"] = False
    for progress in (validation["total"], validation["current"]):
        progress.update(dict.fromkeys(progress, 0))
    if when == "before validation":
        validation["total"].update(ready=1, started=1)  # which Lightning reads as: go back to the validation
    else:  # as in Lightning's hook at the end of a batch, which it goes on from without validating once more
        for count in (batches["total"], batches["current"], stepped):
            count["_batches_that_stepped" if count is stepped else "completed"] -= 1


def end_restart(trainer: pl.Trainer) -> None:
    """Let the first epoch of a resumed training end like any other: Lightning would forget the plateau schedule."""
    vars(trainer.fit_loop)["_restarting"] = False


def random_state() -> dict[str, Any]:
    """The states of all random number generators, in tensors and plain values."""
    name, keys, *rest = np.random.get_state(legacy=True)
    version, state, gauss = random.getstate()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": devices,
        "numpy": [name, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "python": [version, list(state), gauss],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Take up a state of `random_state`."""
    cuda: list[Tensor] = state["cuda"]
    torch.set_rng_state(state["torch"])
    if cuda and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(cuda)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
