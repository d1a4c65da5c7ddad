"""What data cost: batches, the wait for them in training, a million structures, conversion.

Writes experiments/results/data.json. The file of QM9 (flat npz: n_atoms, Z, R, E_hartree) is optional.

    python experiments/benchmarks/data.py [--qm9 FILE] [--structures 1000000] [--batches 10000]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch_geometric.data import Batch

import pygschnet
from pygschnet.datasets import MD17, Files, MoleculeData
from pygschnet.datasets.border import Block
from pygschnet.datasets.convert import write_molecules
from pygschnet.training import energy_forces_loss

ATOMS = 20
QM9_SETTINGS = {"keys": {"energy": "E_hartree"}, "units": {"energy": "Ha"}, "train": 110_000, "val": 1000}


def summary(seconds: list[float]) -> dict[str, object]:
    low, median, high = np.percentile(np.array(seconds) * 1000, [25, 50, 75])
    return {"median_ms": round(float(median), 4), "quartiles_ms": [round(float(low), 4), round(float(high), 4)]}


def timed(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def alone(*arguments: str) -> dict[str, object]:
    """A part of this script in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def assembly(data: MoleculeData, rounds: int = 500) -> dict[str, object]:
    """32 random molecules with edges as one batch: from the store, and from a list of `Data` in memory."""
    rng = np.random.default_rng(0)
    items = [data.molecules[k] for k in range(min(2000, len(data.molecules)))]
    times: dict[str, list[float]] = {"from the store": [], "Batch.from_data_list": []}
    for number in range(rounds):
        index = rng.choice(len(items), 32, replace=False)
        seconds, ours = timed(data.molecules.batch, index)
        times["from the store"].append(seconds)
        seconds, theirs = timed(Batch.from_data_list, [items[k] for k in index])
        times["Batch.from_data_list"].append(seconds)
        if number % 50 == 0:
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs.keys())  # noqa: SIM118
    result: dict[str, object] = {name: summary(values) for name, values in times.items()}
    medians = [float(np.median(values)) for values in times.values()]
    return result | {"ratio": round(medians[1] / medians[0], 2), "rounds": rounds}


def waiting(data: MoleculeData, preset: str, rho: float, steps: int = 200) -> dict[str, object]:
    """The share of a training step that waits for its batch, in the training process itself."""
    torch.manual_seed(0)
    model = pygschnet.preset(preset)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    loader, times = data.train_dataloader(), {"wait": [], "step": []}
    batches = iter(loader)
    for step in range(steps + 20):
        seconds, batch = timed(next, batches)
        start = time.perf_counter()
        optimizer.zero_grad()
        energy_forces_loss(model(batch, forces=rho > 0), batch, rho).backward()
        optimizer.step()
        if step >= 20:
            times["wait"].append(seconds)
            times["step"].append(seconds + time.perf_counter() - start)
    result: dict[str, object] = {name: summary(values) for name, values in times.items()}
    return result | {"share": round(float(np.median(times["wait"]) / np.median(times["step"])), 4), "preset": preset}


def million(structures: int, batches: int) -> dict[str, object]:
    """A generated store: opening it, random batches of 32 from it, and the memory of the process that does so."""

    def blocks():
        rng = np.random.default_rng(0)
        places = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)[:ATOMS] * 1.4
        for first in range(0, structures, 10_000):
            count = min(10_000, structures - first)
            pos = (places + rng.normal(scale=0.05, size=(count, ATOMS, 3))).reshape(-1, 3)
            z = rng.choice([1, 6, 7, 8], count * ATOMS).astype(np.uint8)
            forces, energy = rng.normal(size=pos.shape), rng.normal(size=count) - 100.0 * ATOMS
            yield Block(np.full(count, ATOMS), {"z": z, "pos": pos, "forces": forces}, {"energy": energy})

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "million.safetensors"
        graph = pygschnet.RadiusGraph(4.0)
        seconds, _ = timed(write_molecules, path, blocks(), {}, {"source": {"class": "generated"}}, graph)
        reading = alone(str(path), str(batches))
        return {
            "structures": structures,
            "atoms each": ATOMS,
            "bytes": path.stat().st_size,
            "written in s, with edges to 4 Å": round(seconds, 1),
            "peak memory of writing, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        } | reading


def read_at_random(path: str, batches: int) -> dict[str, object]:
    """In a process of its own, so that its memory is that of reading."""
    warnings.simplefilter("ignore")
    data = Files(path, cutoff=4.0, train=None, val=0, test=1000)
    before = resident_mb()
    seconds, _ = timed(data.setup, "fit")
    opened = resident_mb()
    times, highest = [], opened
    rng = np.random.default_rng(0)
    for number in range(batches):
        duration, _ = timed(data.molecules.batch, rng.integers(0, len(data.molecules), 32))
        times.append(duration)
        if number % 20 == 0:
            highest = max(highest, resident_mb())
    return {
        "opened, with its split, in s": round(seconds, 3),
        "resident set before opening, MB": round(before),
        "after opening, MB": round(opened),
        f"highest in {batches} batches of 32, MB": round(highest),
        "batch": summary(times),
    }


def conversion(path: str) -> dict[str, object]:
    """In a process of its own, so that its memory is that of converting."""
    warnings.simplefilter("ignore")
    before = resident_mb()
    with tempfile.TemporaryDirectory() as folder:
        data, output = Files(path, cutoff=5.0, **QM9_SETTINGS), Path(folder) / "qm9.safetensors"
        seconds, _ = timed(data.write, output)
        size = output.stat().st_size
        with_edges, _ = timed(data.write, output, None, True)
        count = 128_716
        return {
            "molecules": count,
            "without edges, s": round(seconds, 2),
            "molecules per s": round(count / seconds),
            "with edges to 5 Å, s": round(with_edges, 2),
            "bytes": size,
            "bytes with edges": output.stat().st_size,
            "resident set before, MB": round(before),
            "peak memory, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qm9")
    parser.add_argument("--structures", type=int, default=1_000_000)
    parser.add_argument("--batches", type=int, default=10_000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    ethanol = MD17("data/ethanol.npz", cutoff=5.0)
    ethanol.setup("fit")
    paper = MD17("data/ethanol.npz", train=1500, val=100, batch_size=32)
    paper.setup("fit")
    result: dict[str, object] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "batch of 32 ethanols with edges to 5 Å": assembly(ethanol),
        "training step, ethanol, energy and forces": waiting(_endless(paper), "paper", 100.0),
    }
    if options.qm9:
        qm9 = Files(options.qm9, cutoff=10.0, **QM9_SETTINGS)
        qm9.setup("fit")
        result["batch of 32 molecules of QM9 with edges to 10 Å"] = assembly(qm9)
        result["training step, QM9, energy"] = waiting(qm9, "pyg", 0.0)
        result["conversion of QM9"] = alone("convert", options.qm9)
    result["a million structures"] = million(options.structures, options.batches)
    Path("experiments/results/data.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps(result, indent=2, ensure_ascii=False))


class _endless:
    """A data set whose training loader starts again at its end."""

    def __init__(self, data: MoleculeData):
        self.data = data

    def train_dataloader(self):
        epoch = 0
        while True:
            loader = self.data.train_dataloader()
            loader.sampler.set_epoch(epoch)
            yield from loader
            epoch += 1


if __name__ == "__main__" and sys.argv[1:2] == ["convert"]:
    print(json.dumps(conversion(sys.argv[2]), ensure_ascii=False))
elif __name__ == "__main__" and len(sys.argv) == 3 and sys.argv[1].endswith(".safetensors"):
    print(json.dumps(read_at_random(sys.argv[1], int(sys.argv[2])), ensure_ascii=False))
elif __name__ == "__main__":
    main()
