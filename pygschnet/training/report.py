"""The record of a run: metrics.json, learning curves, predicted against reference values, and a table."""

import csv
import json
import math
import os
import platform
import time
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor
from torch_geometric.data import Data

from pygschnet.datasets.base import MoleculeData
from pygschnet.files import replacing
from pygschnet.model import AtomisticModel, Prediction
from pygschnet.ranks import collect, interleave
from pygschnet.training.memory import ADVICE, device_megabytes, training_megabytes
from pygschnet.training.plots import plot_learning_curves, plot_parity
from pygschnet.units import UNITS, unit_factor

STAGES = {"val": "validation", "test": "test", "test_without_ema": "test_without_ema"}
"""Lightning's names of the stages and ours in metrics.json."""

CURVES = {
    "train/loss": ("training loss", "eV²"),
    "val/energy_mae": ("validation energy MAE", "eV"),
    "val/forces_mae": ("validation forces MAE", "eV/Å"),
    "train/learning_rate": ("learning rate", ""),
}
"""Columns of metrics.csv that are drawn, their titles and units."""

ALSO = {"eV": "kcal/mol", "eV/Å": "kcal/mol/Å", "eV/Å³": "GPa"}
"""Units in which errors are printed too."""

ASTRAY = 10.0
"""How many times its best the validation loss may be before a training is said to have gone astray."""

PACKAGES = ("pygschnet", "torch", "torch-geometric", "pytorch-lightning")


@runtime_checkable
class RecordedData(Protocol):
    """Data that can say what they are, as `MoleculeData` can; others are trained on without a record."""

    def describe(self) -> dict[str, Any]:
        """Where they come from."""

    def describe_split(self) -> dict[str, Any]:
        """Sizes and hash of the split."""

    def label_units(self) -> dict[str, str]:
        """Of the labels."""

    def keep_split(self, path: Path) -> None:
        """Write the split, or compare it with what has been written."""


class RunReport(pl.Callback):
    """Writes metrics.json, split.npz and the plots of a run and prints a table of its errors.

    Args:
        run_dir: folder of the run; learning curves are drawn from what Lightning's CSV logger writes to its `logs`.
    """

    def __init__(self, run_dir: str | Path):
        self.run_dir = Path(run_dir)
        self.seconds = self.cpu_seconds = 0.0  # of training, over all resumed parts
        self.record: dict[str, Any] = {}  # what metrics.json holds
        self.best = (math.inf, 0)  # validation loss, and at which step
        self.units, self.loss_unit = UNITS, "eV²"
        self._good = True  # so was the last validation loss, beside the best one
        self._started: tuple[float, float] | None = None  # both clocks
        self._pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def state_dict(self) -> dict[str, Any]:
        seconds, cpu_seconds = self._running()
        times = {"seconds": self.seconds + seconds, "cpu_seconds": self.cpu_seconds + cpu_seconds}
        return times | {"best_loss": self.best[0], "best_step": self.best[1]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.cpu_seconds = state_dict["seconds"], state_dict.get("cpu_seconds", 0.0)
        self.best = state_dict.get("best_loss", math.inf), state_dict.get("best_step", 0)

    def _running(self) -> tuple[float, float]:
        """Seconds of the clock and of the processor since the training, or this part of it, began."""
        if self._started is None:
            return 0.0, 0.0
        return time.monotonic() - self._started[0], time.process_time() - self._started[1]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.loss_unit = "eV" if getattr(pl_module, "loss", None) == "absolute" else "eV²"
        if isinstance(trainer.datamodule, RecordedData):
            self.units = UNITS | trainer.datamodule.label_units()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.monotonic(), time.process_time()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if isinstance(trainer.datamodule, RecordedData) and trainer.is_global_zero:
            trainer.datamodule.keep_split(self.run_dir / "split.npz")
            if isinstance(pl_module.model, AtomisticModel) and isinstance(trainer.datamodule, MoleculeData):
                say_memory(trainer, trainer.datamodule, pl_module.model)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seconds, cpu_seconds = self._running()
        self.seconds, self.cpu_seconds = self.seconds + seconds, self.cpu_seconds + cpu_seconds
        self._started = None

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.draw_learning_curves()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit":
            self._finish(trainer, pl_module)
        elif not trainer.sanity_checking and "val/loss" in trainer.callback_metrics:
            self._watch(float(trainer.callback_metrics["val/loss"]), trainer.global_step)

    @rank_zero_only
    def _watch(self, loss: float, step: int) -> None:
        """Warn when a training goes astray: the best model is kept, so its errors alone would not tell."""
        (best, of), was_good = self.best, self._good
        if loss < best:
            self.best = loss, step
        self._good = loss <= ASTRAY * best and math.isfinite(loss)
        if was_good and not self._good:
            before = f", and was {best:.3g} after step {of}" if of else ""
            warnings.warn(
                f"the validation loss is {loss:.3g} after step {step}{before}: the training has diverged, or "
                "learns its data by heart; a lower learning rate, --trainer.gradient_clip_val 10 "
                "or --trainer.callbacks+=pygschnet.training.Rewind may help",
                stacklevel=2,
            )

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pairs = {}

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Prediction,
        batch: Data,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        predicted, labels = outputs._asdict() | outputs.properties, pl_module.model.labels(batch)
        for quantity in ("energy", "forces", *outputs.properties):
            if quantity in labels:
                pair = (labels[quantity].flatten().cpu(), predicted[quantity].flatten().cpu())
                self._pairs.setdefault(quantity, []).append(pair)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._finish(trainer, pl_module)
        for quantity, of_this_rank in self._pairs.items():
            pairs = interleave(collect(of_this_rank))
            if pairs and trainer.is_global_zero:
                reference, predicted = (torch.cat(values).numpy() for values in zip(*pairs, strict=True))
                path = self.run_dir / f"parity_{quantity}.png"
                shown, mae = f"{len(reference)} test values", float(np.abs(predicted - reference).mean())
                plot_parity(reference, predicted, quantity, self.units.get(quantity, ""), shown, mae, path)
        self._pairs = {}

    def draw_learning_curves(self) -> None:
        """Draw what Lightning's CSV logger has written."""
        rows: list[dict[str, str]] = []
        for path in sorted(self.run_dir.glob("logs/version_*/metrics.csv"), key=os.path.getmtime):
            with path.open() as file:
                rows += csv.DictReader(file)
        curves, units = {}, {}
        columns = {f"val/{name}_mae": (f"validation {name} MAE", unit) for name, unit in self.units.items()}
        others = {key: columns[key] for key in sorted(columns.keys() - CURVES.keys())}
        for key, (name, unit) in (CURVES | others).items():
            points = [(int(row["step"]), float(row[key])) for row in rows if row.get(key)]
            if points:
                curves[name] = tuple(np.array(points).T)
                units[name] = self.loss_unit if key == "train/loss" else unit
        if curves:
            plot_learning_curves(curves, units, self.run_dir / "learning_curves.png")

    def _finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        metrics = with_units({name: float(value) for name, value in trainer.callback_metrics.items()}, self.units)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        path = self.run_dir / "metrics.json"
        earlier = json.loads(path.read_text()) if path.exists() else {}
        self.record = earlier | metrics | self._facts(trainer, pl_module)
        write_json(self.record, path)
        print(table(metrics))

    def _facts(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        data = trainer.datamodule
        facts: dict[str, Any] = {
            "seed": int(os.environ["PL_GLOBAL_SEED"]) if "PL_GLOBAL_SEED" in os.environ else None,
            "device": device_name(pl_module.device),
            "parameters": sum(p.numel() for p in pl_module.model.parameters()),
            "versions": {package: version(package) for package in PACKAGES} | {"python": platform.python_version()},
        }
        if self.seconds:
            times = {"wall_time_s": round(self.seconds, 1), "cpu_time_s": round(self.cpu_seconds, 1)}
            facts |= {"steps": trainer.global_step} | times
        if isinstance(data, RecordedData):
            facts |= {"data": data.describe(), "split": data.describe_split()}
        return facts


def say_memory(trainer: pl.Trainer, data: MoleculeData, model: AtomisticModel) -> None:
    """Print how much memory a training step will take, and warn if that is more than there is."""
    share = 1 / trainer.world_size
    needed = training_megabytes(model, data.batch_atoms * share, data.batch_edges * share / 2)
    if needed is None:
        return
    there = device_megabytes(trainer.strategy.root_device)
    print(f"a step on {data.batch_atoms * share:.0f} atoms takes about {needed:.0f} MB of {there:.0f} MB")
    if needed > 0.8 * there:
        warnings.warn(f"this training is likely to run {ADVICE}", stacklevel=2)


def with_units(metrics: Mapping[str, float], units: Mapping[str, str] = UNITS) -> dict[str, dict[str, dict[str, Any]]]:
    """Lightning's flat metrics, such as "test/energy_mae", by stage and with their unit."""
    nested: dict[str, dict[str, dict[str, Any]]] = {}
    for key, value in metrics.items():
        stage, _, name = key.partition("/")
        quantity, _, measure = name.rpartition("_")
        if stage in STAGES and measure in ("mae", "rmse"):
            nested.setdefault(STAGES[stage], {})[name] = {"value": value, "unit": units.get(quantity, "")}
    return nested


def table(metrics: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Errors as text; energies and forces in eV and in the kcal/mol of the papers, stress in GPa too."""
    lines = []
    for stage, errors in metrics.items():
        for name, error in errors.items():
            quantity, measure = name.rsplit("_", 1)
            label = f"{stage.replace('_', ' ')}: {quantity} {measure.upper()}"
            value, unit = error["value"], error["unit"]
            if unit in ALSO:
                other = ALSO[unit]
                text = f"{1000 * value:>12.3f} m{unit:<6}{value / unit_factor(other):>12.4f} {other}"
            else:
                text = f"{value:>12.5g} {unit}"
            lines.append(f"  {label:<36}{text}")
    return "\n".join(lines)


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a JSON file, whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def device_name(device: torch.device) -> str:
    """What a person calls the device."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"
