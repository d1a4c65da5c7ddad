"""How far energies and forces of 1,000 atoms are from what this machine could do.

Counts the floating-point operations and the bytes of the fused path, measures the machine's ceilings in the same run
(matrix products and copies, interleaved with the model), and writes experiments/results/limits.json.

    python experiments/benchmarks/limits.py [--atoms 1000] [--threads 2] [--rounds 40]
"""

import argparse
import json
import platform
import time
from pathlib import Path
from statistics import median

import torch

import pygschnet
from experiments.benchmarks.systems import WORKS, graph
from pygschnet.graph import unique_pairs

TAPS = 6


def operations(atoms: int, pairs: int, coefficients: int, f: int, t: int) -> dict[str, float]:
    """Additions and multiplications of one evaluation, forward and backward, with f features and filters, t blocks."""
    dense = 2 * 3 * atoms * f * f * t  # three layers in each block; backward the same with respect to their inputs
    filters = 2 * TAPS * pairs * f  # W of all pairs
    head = 2 * atoms * f * f / 2
    return {
        "dense layers": 2 * (dense + head),
        "aggregate": 2 * t * (filters + 4 * pairs * f),  # x_j W to i, x_i W to j; forward and backward
        "pair_dot": t * (filters + 3 * pairs * f),
    }


def traffic(atoms: int, pairs: int, coefficients: int, f: int, t: int) -> dict[str, float]:
    """Bytes: those that must come from or go to memory once, and those that the kernels ask the caches for."""
    array, table = 4 * atoms * f, 4 * coefficients * f
    per_call = 4 * pairs * f * (TAPS + 3)  # rows of the table, x_j, y_j read and written
    return {
        "each array once": t * (2 * (8 * array + 3 * 4 * f * f) + 3 * table) + 3 * 4 * pairs * (TAPS + 3),
        "asked of caches": t * (2 * per_call + 4 * pairs * f * (TAPS + 2)),
    }


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    work = next(work for work in WORKS.values() if not work.train and "1,000" in work.name)
    model = pygschnet.preset(work.preset).eval()
    data = graph(work, model.cutoff)
    pairs, representation = len(unique_pairs(data)[1]), model.representation
    square, large = torch.randn(2048, 2048), torch.randn(2**26)
    tall, layer = torch.randn(len(data.z), representation.features), torch.randn(*2 * [representation.features])
    into = torch.empty_like(large)

    def evaluate() -> None:
        with torch.no_grad():
            model(data)

    measured = {
        "energy and forces": evaluate,
        "large matrix product": lambda: square @ square,
        "one dense layer": lambda: tall @ layer,
        "copy": lambda: into.copy_(large),
    }
    times: dict[str, list[float]] = {name: [] for name in measured}
    for number in range(options.rounds + 3):
        for name, function in measured.items():
            function()  # finds the caches as the one before left them
            if number >= 3:
                times[name].append(seconds(function))
    found = {name: median(values) for name, values in times.items()}
    coefficients = representation._kept.tables.shape[1]
    sizes = (len(data.z), pairs, coefficients, representation.features, representation.interactions)
    flops, moved = operations(*sizes), traffic(*sizes)
    ceiling = 2 * 2048**3 / found["large matrix product"]
    layers = 2 * tall.numel() * layer.shape[0] / found["one dense layer"]
    bandwidth = 2 * 4 * large.numel() / found["copy"]
    least = max(sum(flops.values()) / ceiling, moved["each array once"] / bandwidth)
    result = {
        "atoms, pairs, coefficients, features, blocks": sizes,
        "operations": flops,
        "bytes": moved,
        "milliseconds": {name: 1e3 * value for name, value in found.items()},
        "ceilings": {"Gflop/s": ceiling / 1e9, "Gflop/s of one dense layer": layers / 1e9, "GB/s": bandwidth / 1e9},
        "limit_ms": 1e3 * least,
        "limit_with_layers_as_measured_ms": 1e3
        * (flops["dense layers"] / layers + (flops["aggregate"] + flops["pair_dot"]) / ceiling),
        "times_the_limit": found["energy and forces"] / least,
        "threads": options.threads,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    Path("experiments/results/limits.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
