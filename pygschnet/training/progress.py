"""The progress bar: errors with units, and the time that is left of the whole training."""

import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar

from pygschnet.units import UNITS


class Progress(TQDMProgressBar):
    """Lightning's bar, which knows neither units nor trainings of many epochs."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=20)
        self._begun = (0.0, 0.0)  # when, and with what part of the training done

    def on_train_start(self, *args: Any) -> None:
        super().on_train_start(*args)
        self._begun = (time.monotonic(), part_done(self.trainer))

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        shown: dict[str, Any] = {}
        for name, value in super().get_metrics(trainer, pl_module).items():
            quantity = name.rpartition("/")[2].removesuffix("_mae")
            if name.endswith("_mae") and quantity in UNITS and isinstance(value, float):
                shown[name.replace("val/", "").replace("_mae", " MAE")] = f"{1000 * value:.3g} m{UNITS[quantity]}"
            elif name != "v_num":
                shown[name] = value
        begun, before = self._begun
        done = part_done(trainer)
        if trainer.training and done > before:
            left = (time.monotonic() - begun) * (1 - done) / (done - before)
            shown["left"] = str(timedelta(seconds=round(left)))
        return shown


def part_done(trainer: pl.Trainer) -> float:
    """How much of a training that ends after so many steps or epochs is done; 0 if nobody knows."""
    if trainer.max_steps > 0:
        return trainer.global_step / trainer.max_steps
    batches = trainer.num_training_batches * (trainer.max_epochs or 0)
    return trainer.fit_loop.epoch_loop.total_batch_idx / batches if batches > 0 else 0.0
