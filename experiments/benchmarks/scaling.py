"""Training on 1 and 2 processes: strong and weak scaling, and what it is made of.

    python -m experiments.benchmarks.scaling [--out experiments/results/scaling.json]

Every process has one thread. The parts are timed in turns in one run: steps of a whole batch on one process, steps of
half the batch on each of two (strong), of a whole batch on each of two (weak), the same without communication
(independent: what the machine gives two processes at best), and all-reduces of the gradients' size.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch_geometric.data import Batch

from experiments.benchmarks.systems import WORKS, graph
from pygschnet import AtomisticModel, Atomwise, RadiusGraph, SchNet
from pygschnet.datasets.sampler import share
from pygschnet.ranks import rank_and_number, sum_over_ranks
from pygschnet.training import molecule_losses

RHO, WARM_UP, ROUNDS = 100.0, 3, 15
PROCESSES = 2
CASES = {  # which of the works in systems.py, and how many features
    "F = 64, 32 ethanols": (2, 64),
    "F = 128, 32 ethanols": (2, 128),
    "F = 128, 32 x 18 atoms": (3, 128),
    "F = 512, 32 ethanols": (2, 512),
}


def schnet(features: int) -> AtomisticModel:
    """SchNetPack's SchNet with so many features."""
    torch.manual_seed(0)
    settings = dict(gaussians=25, gaussian_stop=5.0, gamma=None, cutoff=5.0, cutoff_form="cosine")
    return AtomisticModel(SchNet(features, features, 6, **settings), Atomwise(features))


def seconds(work: Callable[[], None]) -> float:
    """Of one run, from when all processes are ready until all have finished."""
    dist.barrier()
    start = time.perf_counter()
    work()
    dist.barrier()
    return time.perf_counter() - start


def training_step(model: torch.nn.Module, batch: Batch) -> Callable[[], None]:
    """A step as `AtomisticModule` takes it."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-12, fused=True)
    ranks = rank_and_number()[1] if isinstance(model, DistributedDataParallel) else 1

    def step() -> None:
        losses = molecule_losses(model(batch), batch, RHO)
        count = losses.new_tensor(float(len(losses)))
        total = sum_over_ranks(count) if ranks > 1 else count
        (losses.sum() * ranks / total).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def alone(work: Callable[[], None]) -> Callable[[], None]:
    """Only the first process works; the others wait."""
    return work if dist.get_rank() == 0 else lambda: None


def measure() -> dict[str, Any]:
    """What one process does and finds."""
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    for name, (number, features) in CASES.items():
        molecules = [RadiusGraph(5.0)(item) for item in graph(WORKS[number], 5.0).to_data_list()]
        batch = Batch.from_data_list(molecules)
        costs = np.array([item.edge_index.shape[1] + item.num_nodes for item in molecules])
        mine = Batch.from_data_list([molecules[k] for k in share(costs, PROCESSES)[dist.get_rank()]])
        plain, parallel = schnet(features), DistributedDataParallel(schnet(features), broadcast_buffers=False)
        gradients = torch.zeros(sum(parameter.numel() for parameter in plain.parameters()))
        works = {
            "one process": alone(training_step(plain, batch)),
            "independent": training_step(schnet(features), batch),
            "strong": training_step(parallel, mine),
            "weak": training_step(parallel, batch),
            "all-reduce": lambda gradients=gradients: dist.all_reduce(gradients),
        }
        times: dict[str, list[float]] = {part: [] for part in works}
        for _ in range(WARM_UP + ROUNDS):
            for part, run in works.items():
                times[part].append(seconds(run))
        medians = {part: 1000 * float(np.median(values[WARM_UP:])) for part, values in times.items()}
        result[name] = {
            "parameters": len(gradients),
            "ms": {part: round(value, 3) for part, value in medians.items()},
            "quartiles_ms": {
                part: [round(1000 * q, 3) for q in np.percentile(values[WARM_UP:], [25, 75])]
                for part, values in times.items()
            },
            "strong_speed_up": round(medians["one process"] / medians["strong"], 2),
            "weak_efficiency": round(medians["one process"] / medians["weak"], 2),
            "efficiency_of_independent_processes": round(medians["one process"] / medians["independent"], 2),
        }
    return result


def main(out: Path | None) -> None:
    """Start the processes and write what the first of them finds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-m", "experiments.benchmarks.scaling", "--join", f"{folder}/store"]
        others = [
            subprocess.Popen(command, env=os.environ | {"RANK": str(rank), "OMP_NUM_THREADS": "1"})
            for rank in range(PROCESSES)
        ]
        assert [process.wait() for process in others] == [0] * PROCESSES
        result = json.loads(Path(f"{folder}/store.json").read_text())
    result = {"cores": os.cpu_count(), "torch": torch.__version__, "machine": platform.machine(), "works": result}
    print(json.dumps(result, indent=2))
    if out:
        out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--join", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.join is None:
        main(options.out)
    else:
        rank = int(os.environ["RANK"])
        dist.init_process_group("gloo", f"file://{options.join}", timedelta(minutes=5), PROCESSES, rank)
        found = measure()
        if rank == 0:
            Path(f"{options.join}.json").write_text(json.dumps(found))
        dist.destroy_process_group()
