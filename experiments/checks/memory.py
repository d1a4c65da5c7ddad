"""The memory of a training, step by step: it must not grow.

python -m experiments.checks.memory [--steps 1000] [--out experiments/results/memory.json]
"""

import argparse
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import psutil
import pytorch_lightning as pl
import torch

from experiments.checks.interruptions import frames
from pygschnet import Atomwise, SchNet
from pygschnet.datasets import MD17
from pygschnet.training import AtomisticModule, Checkpoints, RunReport


class Memory(pl.Callback):
    """Records the resident set, in MB, every tenth of the training."""

    def __init__(self, steps: int):
        self.every, self.megabytes = max(1, steps // 10), []

    def on_train_batch_end(self, trainer, module, *args):
        if trainer.global_step % self.every == 0:
            self.megabytes.append(psutil.Process().memory_info().rss / 1e6)


def measure(steps: int, folder: Path) -> dict[str, object]:
    """Train so many steps, with validations and checkpoints."""
    np.savez(folder / "frames.npz", **frames())
    settings = dict(gaussians=25, gaussian_stop=5.0, gamma=None, cutoff=5.0, cutoff_form="cosine")
    module = AtomisticModule(SchNet(32, 32, 3, **settings), Atomwise(32))
    data = MD17(str(folder / "frames.npz"), train=90, val=12, test=12, batch_size=8, cutoff=5.0, cache=str(folder))
    memory = Memory(steps)
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=steps,
        val_check_interval=50,
        check_val_every_n_epoch=None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[memory, RunReport(folder / "run"), Checkpoints(folder / "run")],
    )
    trainer.fit(module, data)
    early, late = memory.megabytes[1], max(memory.megabytes[2:])
    rounded = [round(value, 1) for value in memory.megabytes]
    return {"steps": steps, "megabytes": rounded, "growth": round(late / early - 1, 4)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        result = measure(options.steps, Path(temporary))
    print(json.dumps(result))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
