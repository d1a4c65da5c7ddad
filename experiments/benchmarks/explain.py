"""Time and memory of every part of an explanation, on one core and on two: of aspirin, and of 5,000 molecules of QM9.

Every part runs in a process of its own, once to load what stays, then measured; memory is what it adds to the resident
set at most.

    python -m experiments.benchmarks.explain MODEL ASPIRIN.npz -c experiments/qm9/electronic_energy.yaml
"""

import argparse
import contextlib
import datetime
import io
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ase.io
import numpy as np
import torch
import yaml
from ase import Atoms

import pygschnet
from experiments.benchmarks.probe import ROOT, resident
from pygschnet.datasets import Files
from pygschnet.interpret import (
    attribute,
    bonds,
    contributions,
    embedding_components,
    environment_statistics,
    environments,
    estimate_patterns,
    filter_cuts,
    groups,
    isosurface,
    local_chemical_potential,
    plane,
    ring_stability,
    sensitivity,
    signal_quality,
    walk_relevance,
)
from pygschnet.interpret.command import batches, explain

STRUCTURES = 5_000


def parts(model_file: str, aspirin_file: str, config: str) -> dict:
    """What is measured, by name; the first call of each loads what stays."""
    model = pygschnet.load(model_file)
    with np.load(aspirin_file) as frames:
        aspirin = Atoms(frames["nuclear_charges"], frames["coords"][0])
    settings = yaml.safe_load(Path(config).read_text())["data"]["init_args"]

    def molecules():
        if not hasattr(molecules, "kept"):
            molecules.kept = list(batches(model, Files(**settings), STRUCTURES))
        return molecules.kept

    def patterns():
        if not hasattr(patterns, "kept"):
            patterns.kept = estimate_patterns(model, molecules()[:25])
        return patterns.kept

    def page():
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            ase.io.write(f"{folder}/aspirin.xyz", aspirin)
            explain(model_file, [f"{folder}/aspirin.xyz"], f"{folder}/report.html")

    around = np.random.default_rng(0).uniform(-3.5, 3.5, (50_000, 3)) + aspirin.positions.mean(0)
    return {
        "contributions": lambda: contributions(model, aspirin),
        "bonds, environments, groups": lambda: (environments(bonds(aspirin)), groups(bonds(aspirin))),
        "sensitivity": lambda: sensitivity(model, aspirin),
        "walks": lambda: walk_relevance(model, aspirin),
        "isosurface, 0.2 Å": lambda: isosurface(aspirin.positions),
        "Ω on it, 4 probes": lambda: local_chemical_potential(model, aspirin, isosurface(aspirin.positions).vertices),
        "Ω in a plane, 4 probes": lambda: local_chemical_potential(model, aspirin, plane(aspirin.positions).points),
        "Ω at 50,000 points, 4 probes": lambda: local_chemical_potential(model, aspirin, around),
        "embedding": lambda: embedding_components(model),
        "filters, 10 × 10 Å": lambda: filter_cuts(model),
        "attribution": lambda: attribute(model, aspirin, "pattern_attribution", patterns()),
        "the whole page": page,
        f"patterns of {STRUCTURES // 2:,} molecules": lambda: estimate_patterns(model, molecules()[:25]),
        f"signal quality on {STRUCTURES // 2:,}": lambda: signal_quality(model, patterns(), molecules()[25:]),
        f"environments of {STRUCTURES:,}": lambda: environment_statistics(model, molecules()),
        f"rings of {STRUCTURES:,}": lambda: ring_stability([model], molecules()),
    }


def measure(name: str, files: tuple[str, str, str], threads: int, rounds: int) -> tuple[list[float], float]:
    torch.set_num_threads(threads)
    part = parts(*files)[name]
    part()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, seconds = resident("VmRSS"), []
    for _ in range(rounds):
        begin = time.perf_counter()
        part()
        seconds.append(time.perf_counter() - begin)
    return seconds, resident("VmHWM") - before


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("aspirin")
    parser.add_argument("-c", "--config", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "experiments/results/explain.json")
    options = parser.parse_args()
    files, rows = (options.model, options.aspirin, options.config), {}
    print(f"{'':36}{'one core':>10}{'two':>10}{'memory':>10}")
    for name in parts(*files):
        row = {}
        for threads in (1, 2):
            with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                seconds, memory = pool.apply(measure, (name, files, threads, options.rounds))
            row[f"seconds, {threads} threads"] = [float(f"{value:.3g}") for value in np.sort(seconds)]
            row["MB"] = round(max(memory, row.get("MB", 0)))
        middle = [row[f"seconds, {threads} threads"][options.rounds // 2] for threads in (1, 2)]
        rows[name] = row
        print(f"{name:36}{middle[0]:>8.3g} s{middle[1]:>8.3g} s{row['MB']:>7} MB", flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    record = {"command": " ".join(["python -m experiments.benchmarks.explain", *sys.argv[1:]]), "commit": commit}
    record |= {"date": datetime.date.today().isoformat(), "molecule": "aspirin, 21 atoms", "parts": rows}
    options.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
