"""Kill a training again and again, resume it each time, and compare it bit by bit with one that was left alone.

    python -m experiments.checks.interruptions [--kills 20] [--out experiments/results/interruptions.json]

The training shuffles, has two workers, averages its weights, reduces its learning rate on a plateau, validates every
25 steps and writes a checkpoint after every batch; every second kill waits for one that is being written.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pygschnet.cli import main
from pygschnet.training.checkpoint import AtomicCheckpointIO

CONFIG = """
seed_everything: 3
model:
  representation: {class_path: SchNet, init_args: {features: 16, filters: 16, interactions: 2, gaussians: 25,
    gaussian_stop: 5.0, gamma: null, cutoff: 5.0, cutoff_form: cosine}}
  head: {class_path: Atomwise, init_args: {features: 16}}
  ema_decay: 0.9
  optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.01}}
  scheduler: {class_path: pytorch_lightning.cli.ReduceLROnPlateau,
    init_args: {monitor: val/loss, patience: 0, factor: 0.7}}
data: {class_path: MD17, init_args: {path: frames.npz, train: 90, val: 12, test: 12, batch_size: 8, num_workers: 2}}
trainer: {max_steps: 200, check_val_every_n_epoch: null, val_check_interval: 25, enable_progress_bar: false,
  enable_model_summary: false, logger: false}
early_stopping: {patience: 6}
checkpoint_minutes: 0.0
"""


def frames() -> dict[str, np.ndarray]:
    """Random distortions of a molecule, with random labels."""
    draw = np.random.default_rng(0)
    z = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
    where = np.array([[0, 0, 0], [1.5, 0, 0], [2, 1.3, 0], [-0.4, 1, 0], [-0.4, -0.5, 0.9], [-0.4, -0.5, -0.9],
                      [1.9, -0.5, 0.9], [1.9, -0.5, -0.9], [2.9, 1.3, 0]])  # fmt: skip
    pos = where + 0.05 * draw.normal(size=(114, 9, 3))
    return {"z": z, "R": pos, "E": draw.normal(size=114) - 97000, "F": 20 * draw.normal(size=pos.shape)}


def fit(folder: Path, processes: int) -> None:
    """What a child process does."""
    os.setsid()
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    os.environ |= {"PYGSCHNET_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    sys.argv = ["pygschnet", "fit", "-c", "config.yaml", "--run_dir", "run", "--ckpt_path", "auto"]
    if processes > 1:
        sys.argv += ["--trainer.devices", str(processes), "--trainer.accelerator", "cpu"]
    main()


def start(folder: Path, processes: int = 1) -> Any:
    """Begin a training or go on with it."""
    child = multiprocessing.get_context("fork").Process(target=fit, args=(folder, processes))
    child.start()
    return child


def prepare(folder: Path, config: str = CONFIG) -> Path:
    """A folder with data and configuration."""
    folder.mkdir(parents=True)
    np.savez(folder / "frames.npz", **frames())
    (folder / "config.yaml").write_text(config)
    return folder


def kill(child: Any) -> None:
    """End a training and its workers without asking."""
    with contextlib.suppress(ProcessLookupError):  # it has just finished
        os.killpg(child.pid, signal.SIGKILL)
    child.join()


def final(folder: Path) -> dict[str, Any]:
    """Everything that must be the same: weights, averages, optimiser, schedule, callbacks' states and errors."""
    checkpoint = AtomicCheckpointIO().load_checkpoint(folder / "run/checkpoints/last.ckpt")
    state: dict[str, Any] = dict(checkpoint["state_dict"])
    for number, moments in checkpoint["optimizer_states"][0]["state"].items():
        state |= {f"optimizer {number} {name}": value for name, value in moments.items()}
    metrics = json.loads((folder / "run/metrics.json").read_text())
    for stage in ("validation", "test", "test_without_ema"):
        state |= {f"{stage} {name}": entry["value"] for name, entry in metrics[stage].items()}
    state["learning rate"] = checkpoint["optimizer_states"][0]["param_groups"][0]["lr"]
    state["steps"], state["loops"] = checkpoint["global_step"], json.dumps(checkpoint["loops"]["fit_loop"])
    early = next(value for name, value in checkpoint["callbacks"].items() if name.startswith("EarlyStopping"))
    return state | {f"early stopping {name}": value for name, value in early.items() if name != "patience"}


def same(one: Any, other: Any) -> bool:
    """Whether two values have the same bits."""
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def reference(folder: Path, processes: int = 1) -> tuple[dict[str, Any], float]:
    """A training that is left alone, and how many seconds it takes."""
    begun = time.monotonic()
    child = start(prepare(folder), processes)
    child.join()
    assert child.exitcode == 0, (folder / "log.txt").read_text()
    return final(folder), time.monotonic() - begun


def killed(
    folder: Path, kills: int, seconds: float, draw: random.Random
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A training that is killed up to so many times, and what stood there each time."""
    prepare(folder)
    history: list[dict[str, Any]] = []
    while True:
        child = start(folder)
        child.join(draw.uniform(0.15, 0.5) * seconds if len(history) < kills else None)
        if child.exitcode is not None:
            assert child.exitcode == 0, (folder / "log.txt").read_text()
            return final(folder), history
        if len(history) % 2:
            wait_for_writing(folder)
        kill(child)
        history.append(stand(folder))


def wait_for_writing(folder: Path) -> None:
    """Until a checkpoint is being written, or a second has passed."""
    until = time.monotonic() + 1
    while time.monotonic() < until and not list((folder / "run/checkpoints").glob("*.part")):
        pass


def stand(folder: Path) -> dict[str, Any]:
    """How far the last checkpoint has come."""
    path = folder / "run/checkpoints/last.ckpt"
    left = len(list(path.parent.glob("*.part")))
    return {"step": AtomicCheckpointIO().load_checkpoint(path)["global_step"] if path.exists() else 0, "parts": left}


def trials(kills: int, root: Path, seed: int = 0) -> dict[str, Any]:
    """Trainings that are killed so many times altogether, against one that is not."""
    draw, history, rounds = random.Random(seed), [], []
    expected, seconds = reference(root / "alone")
    while len(history) < kills:
        found, new = killed(root / f"killed-{len(rounds)}", min(kills - len(history), 5), seconds, draw)
        wrong = [name for name in expected.keys() | found.keys() if not same(expected.get(name), found.get(name))]
        rounds.append({"kills": new, "differing": sorted(wrong)})
        history += new
        shutil.rmtree(root / f"killed-{len(rounds) - 1}")
    return {
        "kills": len(history),
        "while a checkpoint was being written": sum(entry["parts"] > 0 for entry in history),
        "compared": len(expected),
        "differing": sorted({name for entry in rounds for name in entry["differing"]}),
        "seconds alone": round(seconds, 1),
        "rounds": rounds,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        result = trials(options.kills, Path(temporary))
    print(json.dumps({name: value for name, value in result.items() if name != "rounds"}, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
