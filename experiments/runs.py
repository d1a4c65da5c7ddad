"""Trainings as records: what was run, how long it took, what came out."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from pygschnet.units import unit_factor

RESULTS = Path(__file__).parent / "results"

FOLDERS = re.compile(r"(?<![\w.])(\.\.)?/([^\s,\[\]]*/)?")
"""Outside of this project, before the names of files."""


def fit(arguments: list[str], run: Path) -> dict:
    """`pygschnet fit` with these arguments, or what is left of it; its metrics. What it prints goes to a file."""
    if not (run / "metrics.json").exists():
        command = [sys.executable, "-m", "pygschnet", "fit", "--ckpt_path", "auto", *arguments, "--run_dir", str(run)]
        run.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{run}.log", "a") as log:
            ended = subprocess.run([*command, "--trainer.enable_progress_bar", "false"], stdout=log, stderr=log)
        if ended.returncode:
            sys.exit(f"the training has ended with code {ended.returncode}; {run}.log says why")
    return json.loads((run / "metrics.json").read_text())


def shown(arguments: list[str], run: str) -> str:
    """The command as somebody else would type it: without the folders of this machine."""
    return shlex.join(["pygschnet", "fit", *(FOLDERS.sub("", argument) for argument in arguments), "--run_dir", run])


def errors(metrics: dict, part: str) -> dict[str, float | None]:
    """`energy_mae` and `forces_mae` in kcal/mol and kcal/mol/Å, of "validation" or "test"."""
    kcal = 1 / unit_factor("kcal/mol")
    found = {name: metrics[part].get(name) for name in ("energy_mae", "forces_mae")}
    return {name: error and round(error["value"] * kcal, 4) for name, error in found.items()}


def curve(run: Path, metrics: dict) -> dict:
    """Validation errors of a training on the way, in kcal/mol and kcal/mol/Å, and the time of a step on one core."""
    kcal, points, last = 1 / unit_factor("kcal/mol"), {}, metrics["steps"]
    for path in sorted(run.glob("logs/version_*/metrics.csv"), key=os.path.getmtime):
        with path.open() as file:
            rows = [row for row in csv.DictReader(file) if row["val/energy_mae"]]
            points |= {min(int(row["step"]) + 1, last): row for row in rows}  # the last one is counted twice
    found = {"step": sorted(points), "seconds_per_step": round(metrics["cpu_time_s"] / last, 6)}
    for name in ("energy_mae", "forces_mae"):
        found[name] = [round(float(points[step][f"val/{name}"]) * kcal, 4) for step in found["step"]]
    return found


def head_commit() -> str:
    """The commit of the code."""
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def write_row(path: Path, row: dict, key: tuple[str, ...]) -> None:
    """Add a row to a table of results, in the place of one that agrees with it in `key`."""
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = [other for other in rows if any(other[name] != row[name] for name in key)] + [row]
    rows.sort(key=lambda each: [each[name] for name in key])
    path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
