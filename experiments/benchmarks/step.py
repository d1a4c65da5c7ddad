"""One training step of the paper's SchNet on 32 ethanols, and its parts.

Every part is timed in every step, so all see the same state of the machine; medians and quartiles are written to
experiments/results/step.json. What Lightning adds is the difference between its steps and ours.

    python experiments/benchmarks/step.py [--data data/ethanol.npz] [--steps 300] [--threads 2]
"""

import argparse
import copy
import json
import platform
import time
import warnings
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

import pygschnet
from pygschnet.datasets import MD17
from pygschnet.training import AtomisticModule, energy_forces_loss
from pygschnet.training.module import concatenate

RHO, WARM_UP = 100.0, 20


def make_module() -> AtomisticModule:
    torch.manual_seed(0)
    model = pygschnet.preset("paper")
    return AtomisticModule(model.representation, model.head, RHO, lambda p: torch.optim.Adam(p, 1e-3, fused=True))


def endless(loader):
    while True:
        yield from loader


def by_hand(data: MD17, steps: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every part of every step."""
    module = make_module().to(device)
    module.model.head.fit(*concatenate(data.train_dataloader()))
    optimizer = module.optimizer(module.model.parameters())
    scheduler = module.scheduler(optimizer)
    batches = endless(data.train_dataloader())
    times: dict[str, list[float]] = {}
    for _ in range(WARM_UP + steps):
        clock = [now(device)]

        def lap(part: str, clock: list[float] = clock) -> None:
            clock.append(now(device))
            times.setdefault(part, []).append(clock[-1] - clock[-2])

        batch = next(batches).to(device)
        lap("data wait")
        moved = copy.copy(batch)
        moved.pos = batch.pos.clone().requires_grad_()
        prediction = module.model(moved, forces=False)
        lap("forward")
        forces = -torch.autograd.grad(prediction.energy.sum(), moved.pos, create_graph=True)[0]
        lap("forces")
        optimizer.zero_grad()
        energy_forces_loss(prediction._replace(forces=forces), batch, RHO).backward()
        lap("backward")
        optimizer.step()
        scheduler.step()
        module.update_average()
        lap("optimiser, schedule, average")
        times.setdefault("step by hand", []).append(clock[-1] - clock[0])
    return {part: values[WARM_UP:] for part, values in times.items()}


class Stopwatch(pl.Callback):
    def __init__(self) -> None:
        self.clock: list[float] = []

    def on_train_batch_end(self, trainer, module, *args) -> None:
        self.clock.append(now(module.device))


def with_lightning(data: MD17, steps: int, device: torch.device) -> list[float]:
    """Seconds from the end of one step to the end of the next, epoch boundaries included."""
    watch = Stopwatch()
    trainer = pl.Trainer(
        max_steps=WARM_UP + steps,
        accelerator=device.type,
        devices=1,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )
    trainer.fit(make_module(), data)
    return np.diff(watch.clock[WARM_UP - 1 :]).tolist()


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def summary(seconds: list[float]) -> dict[str, float]:
    low, median, high = np.percentile(np.array(seconds) * 1000, [25, 50, 75])
    return {"median_ms": round(float(median), 3), "quartiles_ms": [round(float(low), 3), round(float(high), 3)]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/ethanol.npz")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = MD17(options.data, train=950, val=50)
    data.setup("fit")
    rounds = 4
    parts: dict[str, list[float]] = {}
    for _ in range(rounds):  # in turn, so that both see the same machine
        for part, values in by_hand(data, options.steps // rounds, device).items():
            parts.setdefault(part, []).extend(values)
        parts.setdefault("step with Lightning", []).extend(with_lightning(data, options.steps // rounds, device))
    result = {
        "work": "training step E + F, preset paper, 32 ethanols",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {options.threads} threads",
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "steps": options.steps,
        "parts": {part: summary(values) for part, values in parts.items()},
    }
    medians = {part: values["median_ms"] for part, values in result["parts"].items()}
    result["lightning_adds_ms"] = round(medians["step with Lightning"] - medians["step by hand"], 3)
    Path("experiments/results").mkdir(parents=True, exist_ok=True)
    Path("experiments/results/step.json").write_text(json.dumps(result, indent=2) + "\n")
    for part, values in result["parts"].items():
        print(f"{part:<32}{values['median_ms']:>9.3f} ms   {values['quartiles_ms']}")
    print(f"{'Lightning adds':<32}{result['lightning_adds_ms']:>9.3f} ms")
