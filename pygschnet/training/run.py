"""How a run begins: where it is kept, in which processes, and whether what stands there is the same training."""

import os
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy

from pygschnet.errors import InputError
from pygschnet.training.checkpoint import AtomicCheckpointIO

IRRELEVANT = (
    "ckpt_path",
    "run_dir",
    "allow_changes",
    "checkpoint_minutes",
    "timeout_minutes",
    "checkpoint.dirpath",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.logger",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.log_every_n_steps",
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.max_time",
    "trainer.default_root_dir",
    "trainer.profiler",
    "trainer.plugins",
    "trainer.num_sanity_val_steps",
    "trainer.limit_test_batches",
    "trainer.limit_predict_batches",
    "data.init_args.num_workers",
    "data.init_args.cache",
)
"""Settings that decide where and how long a training runs, but not what comes out."""


def default_run_dir() -> str:
    """A folder named after the time or the Slurm job; in a process that Lightning has started, that of the first."""
    if "SLURM_JOB_ID" in os.environ:
        return f"runs/slurm-{os.environ['SLURM_JOB_ID']}"
    return os.environ.get("PYGSCHNET_RUN_DIR", f"runs/{datetime.now():%Y-%m-%d_%H-%M-%S}")


def parallel_settings(settings: Namespace, minutes: float, run_dir: Path) -> dict[str, Any]:
    """Arguments of Lightning's Trainer: our checkpoint files, and how several processes work together.

    Args:
        settings: of the Trainer.
        minutes: how long processes wait for each other.
        run_dir: folder of the run, which the processes that Lightning starts are told.
    """
    plugins = [*(settings["plugins"] or []), AtomicCheckpointIO()]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # Lightning would save in the middle of a step
    parallel: dict[str, Any] = {"plugins": plugins}
    if settings["strategy"] in ("auto", "ddp") and (settings["num_nodes"], settings["devices"]) != (1, 1):
        os.environ["PYGSCHNET_RUN_DIR"] = str(run_dir)
        timeout = timedelta(minutes=minutes)
        parallel["strategy"] = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True, timeout=timeout)
    return parallel


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to, or not be made, before time is spent."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK):
        raise InputError(f"nothing can be written to {existing}: choose another --run_dir")


def refuse_changes(path: Path, now: Mapping[str, Any]) -> None:
    """Refuse to go on with a training under settings that are not those it began with.

    Args:
        path: of the settings it began with.
        now: the present ones.

    Raises:
        InputError: listing those that differ and matter.
    """
    if changes := differences(yaml.safe_load(path.read_text()), now):
        listed = "\n  ".join(changes)
        raise InputError(
            f"the configuration is not that of {path}, with which this training began:\n  {listed}\n"
            "go on with it all the same with --allow_changes true"
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The settings that differ and matter, as "key: old → new".

    Args:
        old: nested settings.
        new: the same of another run.
    """
    before, after = flatten(old), flatten(new)
    return [
        f"{key}: {before.get(key)} → {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not key.startswith(IRRELEVANT)
    ]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dictionary with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
