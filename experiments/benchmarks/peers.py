"""Speed and memory against the SchNets of SchNetPack and PyG: the same weights, inputs, edges and optimiser.

Each contender is a process of its own; they run in turn while the others wait, so all see the same state of the
machine, and must agree on energies, forces, loss and gradients before they are timed. `make bench` runs all works and
writes experiments/results/bench-cpu.json; `make bench-gpu` adds the peers under torch.compile.

    python experiments/benchmarks/peers.py [--works 2,6] [--quick] [--device cuda] [--compile] [--threads 2]
"""

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from experiments.benchmarks.systems import SCALING, WORKS, Work

ROOT = Path(__file__).parents[2]
PEERS = ("schnetpack", "pyg")
TOLERANCE = 1e-4  # of float32 sums in different orders; what was found is in the results
TURN = 0.2  # seconds; contenders that are faster run several times in their turn
PAUSE = 0.01  # seconds between turns, in which the threads of the last contender go to sleep


class Failure(Exception):
    """A contender could not do its work."""


class Process:
    """A contender in a process of its own, which waits unless it is asked."""

    def __init__(self, name: str, number: int, options: argparse.Namespace, *what: str):
        command = [sys.executable, str(Path(__file__).with_name("contender.py")), name, str(number)]
        command += [options.device, str(options.threads), *what]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(options.threads)}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=ROOT)

    def ask(self, line: str):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.reply()

    def reply(self):
        line = self.process.stdout.readline()
        reply = json.loads(line) if line else {"error": f"the process ended with code {self.process.wait()}"}
        if isinstance(reply, dict):
            raise Failure(reply["error"])
        return reply

    def end(self) -> None:
        self.process.communicate()


def contenders(work: Work, compiled: bool) -> list[str]:
    peers = [*PEERS, *(f"{name} compiled" for name in PEERS if compiled)]
    return ["ours", *(peers if work.peers else ())]


def measure(number: int, options: argparse.Namespace) -> dict:
    """A row of the results."""
    work = WORKS[number]
    failed: dict[str, str] = {}

    def attempt(name: str, action, *arguments):
        try:
            return action(*arguments)
        except (Failure, BrokenPipeError) as error:
            if name == "ours":
                raise
            failed[name] = str(error)

    processes = {name: Process(name, number, options) for name in contenders(work, options.compile)}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, process in processes.items():
                attempt(name, process.reply)
            for name, process in processes.items():  # one after the other, as for all that follows
                if name not in failed:
                    attempt(name, process.ask, f"answers {folder}/{name}.pt")
            found = {name: torch.load(f"{folder}/{name}.pt") for name in processes if name not in failed}
        differences = {name: disagreement(found["ours"], found[name]) for name in found if name != "ours"}
        if max((max(each.values()) for each in differences.values()), default=0.0) > TOLERANCE:
            raise SystemExit(f"{work.name}: the contenders disagree: {differences}")
        seconds, timed_processes = {}, {name: processes[name] for name in found}
        for name, process in timed_processes.items():
            seconds[name] = attempt(name, process.ask, f"run {options.warm_up}")
        times = interleave(
            {name: process for name, process in timed_processes.items() if name not in failed},
            {name: values for name, values in seconds.items() if name not in failed},
            options,
        )
    finally:
        for process in processes.values():
            process.end()
    peaks = {}
    for name in times:
        process = Process(name, number, options, "peak")
        peaks[name] = attempt(name, process.reply)
        process.end()
    return row(number, times, peaks, differences, failed)


def disagreement(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> dict[str, float]:
    """The relative differences, in norm, of energies, forces, loss and gradient."""
    return {
        name: float(f"{((values - theirs[name]).norm() / values.norm()).item():.2e}") for name, values in ours.items()
    }


def interleave(
    processes: dict[str, Process], first: dict[str, list[float]], options: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds of all runs of all contenders, in rounds of one turn each."""
    estimates = [min(values) for values in first.values()]
    turn = max(1, int(TURN / max(estimates)))
    rounds = max(options.rounds, math.ceil(options.seconds / (turn * min(estimates))))
    times: dict[str, list[float]] = {name: [] for name in processes}
    names = list(processes)
    for number in range(rounds):
        start = number % len(names)  # nobody always comes after the same one
        for name in names[start:] + names[:start]:
            times[name] += processes[name].ask(f"run {turn}")
            time.sleep(PAUSE)
    return times


def row(
    number: int, times: dict, peaks: dict, differences: dict[str, dict[str, float]], failed: dict[str, str]
) -> dict:
    def by_peer(values: dict) -> dict:
        return {name: value for name, value in values.items() if name != "ours"}

    medians = {name: round(median(seconds) * 1000, 4) for name, seconds in times.items()}
    quartiles = {n: [round(float(q) * 1000, 4) for q in np.percentile(s, [25, 75])] for n, s in times.items()}
    megabytes = {name: None if peak is None else round(peak, 2) for name, peak in peaks.items()}
    theirs = by_peer(medians)
    return {
        "number": number,
        "work": WORKS[number].name,
        "ours_ms": medians["ours"],
        "peers_ms": theirs,
        "ratio": round(min(theirs.values()) / medians["ours"], 3) if theirs else None,
        "ours_quartiles_ms": quartiles["ours"],
        "peers_quartiles_ms": by_peer(quartiles),
        "ours_peak_mb": megabytes["ours"],
        "peers_peak_mb": by_peer(megabytes),
        "max_relative_difference": max((max(each.values()) for each in differences.values()), default=0.0),
        "relative_differences": differences,
        "runs": len(times["ours"]),
        "failed": failed,
    }


def scaling(rows: list[dict]) -> list[dict]:
    """Time and peak memory per atom of inference on the cubes."""
    result = []
    for entry in rows:
        if entry["number"] in SCALING and "ours_ms" in entry:
            atoms = len(WORKS[entry["number"]].molecules()[0][0])
            item = {"atoms": atoms}
            for name in ("ours", "schnetpack"):
                ours = name == "ours"
                ms = entry["ours_ms"] if ours else entry["peers_ms"].get(name)
                mb = entry["ours_peak_mb"] if ours else entry["peers_peak_mb"].get(name)
                item[f"{name}_us_per_atom"] = ms and round(1000 * ms / atoms, 3)
                item[f"{name}_kb_per_atom"] = mb and round(1000 * mb / atoms, 3)
            result.append(item)
    return result


def facts(options: argparse.Namespace) -> dict:
    def output(*command: str) -> str:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()

    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    versions = {name: importlib.metadata.version(name) for name in ("torch-geometric", "schnetpack")}
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.date.today().isoformat(),
        "commit": output("git", "rev-parse", "--short", "HEAD")
        + (", changed" if output("git", "status", "--porcelain", "pygschnet", "experiments/benchmarks") else ""),
        "cpu": f"{cpus[0].partition(': ')[2]}, {len(cpus)} cores" if cpus else platform.processor(),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "threads": options.threads,
        "python": platform.python_version(),
        "versions": {"torch": torch.__version__} | versions,
    }


def show(entry: dict) -> None:
    def cell(name: str) -> str:
        ours = name == "ours"
        ms = entry["ours_ms"] if ours else entry["peers_ms"][name]
        low, high = entry["ours_quartiles_ms"] if ours else entry["peers_quartiles_ms"][name]
        mb = entry["ours_peak_mb"] if ours else entry["peers_peak_mb"][name]
        return f"  {name:<20}{ms:>10.2f} ms  {low:>10.2f} to {high:>9.2f}{math.nan if mb is None else mb:>10.1f} MB"

    print(f"{entry['number']} {entry['work']}: ratio {entry['ratio']}, differ by {entry['max_relative_difference']}")
    print("\n".join(cell(name) for name in ("ours", *entry["peers_ms"])))
    for name, reason in entry["failed"].items():
        print(f"  {name:<20}{reason}")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", help="numbers of those to run, such as 2,6; all by default")
    parser.add_argument("--quick", action="store_true", help="a try: a few rounds")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="peers under torch.compile too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15, help="at least")
    parser.add_argument("--seconds", type=float, default=4.0, help="at least, per contender")
    parser.add_argument("--warm_up", type=int, default=3, help="runs")
    parser.add_argument("--out", type=Path, help="by default complete runs go to experiments/results")
    options = parser.parse_args()
    complete = not (options.works or options.quick)
    if options.quick:
        options.rounds, options.seconds, options.warm_up = 3, 0.0, 1
    out = options.out or (ROOT / f"experiments/results/bench-{options.device}.json" if complete else None)
    numbers = [int(number) for number in options.works.split(",")] if options.works else list(WORKS)
    result = {**facts(options), "rows": []}
    for number in numbers:
        try:
            result["rows"].append(measure(number, options))
            show(result["rows"][-1])
        except (Failure, BrokenPipeError) as error:  # hours of other works are not lost for it
            result["rows"].append({"number": number, "work": WORKS[number].name, "failed": {"ours": str(error)}})
            print(f"{number} {WORKS[number].name}: {error}")
        result["scaling"] = scaling(result["rows"])
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(result, indent=2) + "\n")
    for item in result["scaling"]:
        print(", ".join(f"{name} {value}" for name, value in item.items()))
    if out:
        print(f"written to {out.resolve()}")
