"""An exported model: errors on structures it has not seen, and time against the package's own ways.

Errors are against the model with filters from the networks, in float64, on ethanols of rMD17. Times are of energies and
forces, all ways in turns in one process: one ethanol with the given model, 1,000 atoms with the preset schnetpack,
untrained. Writes experiments/results/export.json.

    python -m experiments.benchmarks.export --model runs/NAME/model.safetensors --data rmd17_ethanol.npz
        [--rows test_01] [--error 1e-6] [--threads 1] [--rounds 15]
"""

import argparse
import copy
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch_geometric.data import Data

import pygschnet
from experiments.benchmarks.systems import WORKS, graph
from pygschnet import AtomisticModel
from pygschnet.export import write
from pygschnet.export.accuracy import cases, inputs
from pygschnet.export.package import read

STRUCTURES = 1000
WAYS = ("edges", "pairs", "auto")


def unseen(path: str, rows: str) -> list[Data]:
    """The first structures among these rows of an rMD17 file."""
    with np.load(path) as file:
        z, positions = torch.from_numpy(file["nuclear_charges"]).long(), torch.from_numpy(file["coords"]).double()
        return [Data(z=z, pos=positions[k]) for k in file[rows][:STRUCTURES]]


def errors(program, considered) -> dict[str, float]:
    energies, forces = [], []
    for case in considered:
        found = program(*case.inputs)
        energies.append(((found[0] - case.outputs[0]) / len(case.outputs[1])).abs().item())
        forces.append((found[2] - case.outputs[2]).abs().flatten())
    forces = torch.cat(forces)
    sizes = torch.cat([case.outputs[2].flatten() for case in considered])
    return {
        "energy_largest_eV_per_atom": max(energies),
        "energy_mean_eV_per_atom": float(np.mean(energies)),
        "forces_largest_eV_A": forces.max().item(),
        "forces_rms_eV_A": forces.square().mean().sqrt().item(),
        "forces_themselves_rms_eV_A": sizes.square().mean().sqrt().item(),
    }


def times(model: AtomisticModel, program, data: Data, rounds: int, repeats: int) -> dict[str, object]:
    arguments = inputs(data)
    functions = {"exported": lambda: program(*arguments)}
    for way in WAYS:
        one = copy.deepcopy(model).eval()
        one.representation.filters_from = way
        functions[way] = lambda one=one: one(data)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    with torch.no_grad():
        for number in range(rounds + 1):
            for name, function in functions.items():
                start = time.perf_counter()
                for _ in range(repeats):
                    function()
                if number:  # the first warms up
                    seconds[name].append((time.perf_counter() - start) / repeats * 1000)
    found = {}
    for name, values in seconds.items():
        low, middle, high = np.percentile(values, [25, 50, 75])
        ratio = float(np.median(np.array(values) / np.array(seconds["exported"])))
        found[name] = {
            "median_ms": round(float(middle), 3),
            "quartiles_ms": [round(float(low), 3), round(float(high), 3)],
            "times_the_exported": round(ratio, 2),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rows", default="test_01")
    parser.add_argument("--error", type=float, default=1e-6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    trained = pygschnet.load(options.model)
    torch.manual_seed(0)
    large = pygschnet.preset("schnetpack").eval()
    torch.nn.init.normal_(large.head.dense_2.weight, std=0.3)
    considered = cases(trained, unseen(options.data, options.rows))
    one = pygschnet.RadiusGraph(trained.cutoff)(Data(z=considered[0].inputs[0], pos=considered[0].inputs[1].float()))
    work = next(work for work in WORKS.values() if not work.train and "1,000" in work.name)
    result = {
        "machine": platform.processor() or platform.machine(),
        "threads": options.threads,
        "torch": torch.__version__,
        "model": {"preset": "paper", "trained_on": trained_on(options.model)},
        "bound_eV_per_atom": options.error,
    }
    with tempfile.TemporaryDirectory() as folder:
        reports = {}
        for name, model in (("small", trained), ("large", large)):
            reports[name] = write(model, Path(folder) / f"{name}.pt2", options.error)
        programs = {name: read(Path(folder) / f"{name}.pt2") for name in reports}
        exact = Path(folder) / "exact.ep"  # the same table without float32's rounding
        reports["exact"] = write(copy.deepcopy(trained).double(), exact, options.error)
        result["knots"] = {name: report["table"]["knots"] for name, report in reports.items()}
        result["errors"] = {
            "structures": len(considered),
            "table, float64": errors(read(exact), considered),
            "file, float32": errors(programs["small"], considered),
        }
        result["one ethanol"] = times(trained, programs["small"], one, options.rounds, 20)
        result["1,000 atoms"] = times(large, programs["large"], graph(work, large.cutoff), options.rounds, 1)
    Path("experiments/results/export.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def trained_on(path: str) -> dict[str, object]:
    """What the model file says about its training."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        summary = json.loads(file.metadata()["pygschnet"])["summary"]
    return {key: summary[key] for key in ("steps", "seed", "test") if key in summary} | {
        "data": Path(summary.get("data", {}).get("path", "")).name
    }


if __name__ == "__main__":
    main()
