"""The local chemical potential of aspirin at 50,000 points, for probes H, C, N and O, on one core.

The package's way, where elements share the sums over the molecule, and the general way, where probes are atoms of a
graph that any representation takes, in turn on the same points, a few thousand for the general way. Both must agree.
Memory is what each adds to the resident set of a process of its own.

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.probe ../shared/data/md17/aspirin.npz [--busy]
"""

import argparse
import datetime
import json
import multiprocessing
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

import pygschnet
from pygschnet.interpret.probe import local_chemical_potential
from pygschnet.representations import SchNet
from tests.structures import randomise

ROOT = Path(__file__).parents[2]
PRESETS, POINTS, SUBSET = ("paper", "schnetpack"), 50_000, 2_000


class General(SchNet):
    """SchNet, but for all that the package knows some other representation, for which there is only the general way."""

    def forward(self, data):
        return super().forward(data)


def prepare(path: str, preset: str, general: bool) -> tuple[pygschnet.AtomisticModel, Atoms, np.ndarray]:
    with np.load(path) as frames:
        aspirin = Atoms(frames["nuclear_charges"], frames["coords"][0])
    low, high = aspirin.positions.min(0) - 3.5, aspirin.positions.max(0) + 3.5
    points = np.random.default_rng(0).uniform(low, high, (POINTS, 3))
    model = randomise(pygschnet.preset(preset)).eval()
    if general:
        model.representation.__class__ = General
    return model, aspirin, points


def peak(path: str, preset: str, general: bool, count: int) -> float:
    """By how much the resident set grows at most, in MB, after a small computation that loads and makes what stays."""
    torch.set_num_threads(1)
    model, aspirin, points = prepare(path, preset, general)
    local_chemical_potential(model, aspirin, points[:10])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    local_chemical_potential(model, aspirin, points[:count])
    return resident("VmHWM") - before


def resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def measure(path: str, preset: str, rounds: int) -> dict:
    runs = {"all points": (False, POINTS), "shared": (False, SUBSET), "general": (True, SUBSET)}
    seconds, omega = {name: [] for name in runs}, {}
    ready = {name: prepare(path, preset, general) for name, (general, _) in runs.items()}
    for turn in range(rounds + 1):  # the first warms up
        for name in list(runs)[:: (-1) ** turn]:
            model, aspirin, points = ready[name]
            begin = time.perf_counter()
            omega[name] = local_chemical_potential(model, aspirin, points[: runs[name][1]])
            if turn > 0:
                seconds[name].append(time.perf_counter() - begin)
    exact, aspirin, points = ready["shared"]
    exact = local_chemical_potential(exact.double(), aspirin, points[:SUBSET])
    scale = np.ptp(exact)
    differences = {name: np.abs(omega[name][:, :SUBSET] - exact).max() / scale for name in runs}
    if max(differences.values()) > 1e-4:
        raise SystemExit(f"the ways disagree: {differences}")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        memory = {name: pool.apply(peak, (path, preset, *runs[name])) for name in runs}
    middle = {name: np.percentile(values, [50, 25, 75]) for name, values in seconds.items()}
    return {
        "preset": preset,
        "seconds": round(middle["all points"][0], 3),
        "quartiles": middle["all points"][1:].round(3).tolist(),
        "peak_MB": round(memory["all points"]),
        "subset": SUBSET,
        "shared_seconds": round(middle["shared"][0], 4),
        "general_seconds": round(middle["general"][0], 4),
        "general_quartiles": middle["general"][1:].round(4).tolist(),
        "general_peak_MB": round(memory["general"]),
        "ratio": round(middle["general"][0] / middle["shared"][0], 1),
        "difference_from_float64": {name: float(f"{value:.1e}") for name, value in differences.items()},
        "rounds": rounds,
    }


def facts() -> dict:
    def output(*command: str) -> str:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()

    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    changed = ", changed" if output("git", "status", "--porcelain", "pygschnet", "experiments/benchmarks") else ""
    return {
        "command": " ".join(["python -m experiments.benchmarks.probe", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "commit": output("git", "rev-parse", "--short", "HEAD") + changed,
        "cpu": f"{cpus[0].partition(': ')[2]}, {len(cpus)} cores" if cpus else platform.processor(),
        "threads": 1,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "molecule": "aspirin, 21 atoms",
        "points": POINTS,
        "elements": 4,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("aspirin", help="the frames of MD17's or rMD17's aspirin, an .npz file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", action="store_true", help="say that other processes took their share of the machine")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments/results/probe.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(options.aspirin, preset, options.rounds) for preset in PRESETS]
    print(f"{'preset':12}{'50,000 points':>15}{'memory':>10}{'general/shared, ' + str(SUBSET) + ' points':>32}")
    for row in rows:
        print(f"{row['preset']:12}{row['seconds']:>13.2f} s{row['peak_MB']:>7} MB{row['ratio']:>32}")
    options.out.write_text(json.dumps({**facts(), "busy": options.busy, "rows": rows}, indent=2) + "\n")
