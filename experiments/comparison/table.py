"""The results of the comparison, from the runs.

    for system in schnet dtnn wacsf enn_s2s gdml sgdml mean; do
      pygschnet fit -c experiments/comparison/$system.yaml --data.path ethanol.npz --run_dir runs/comparison/$system
    done
    python -m experiments.comparison.table runs/comparison --commit COMMIT

Writes experiments/results/comparison.json, from which `python -m experiments.tables` makes the table.
"""

import argparse
import json
from pathlib import Path

import yaml

from pygschnet.training.run import flatten
from pygschnet.units import unit_factor

FOLDER = Path(__file__).parent
RESULTS = FOLDER.parent / "results" / "comparison.json"
SYSTEMS = ("mean", "schnet", "dtnn", "wacsf", "enn_s2s", "gdml", "sgdml", "gdml_1000", "sgdml_1000")


def row(run: Path, commit: str) -> dict:
    """What the table says of a run: errors in kcal/mol and kcal/mol/Å."""
    metrics = json.loads((run / "metrics.json").read_text())
    kcal = 1 / unit_factor("kcal/mol")
    errors = {
        f"{part}_{quantity}_mae": round(metrics[part][f"{quantity}_mae"]["value"] * kcal, 4)
        for part in ("validation", "test")
        for quantity in ("energy", "forces")
    }
    system = run.name.removesuffix("_1000")  # those that were trained on all frames of train_01
    said = flatten(yaml.safe_load((FOLDER / f"{system}.yaml").read_text()))
    done = flatten(yaml.safe_load((run / "config.yaml").read_text()))
    changed = {key: done[key] for key, value in said.items() if done[key] != value and key != "data.init_args.path"}
    flags = "".join(f" --{key} '{value}'" for key, value in changed.items())
    files = f"-c experiments/comparison/{system}.yaml --data.path ethanol.npz"
    command = f"pygschnet fit {files}{flags} --run_dir runs/comparison/{run.name}"
    times = {name: metrics[name] for name in ("steps", "wall_time_s", "cpu_time_s")}
    facts = {name: metrics[name] for name in ("seed", "parameters", "device")}
    return {"system": run.name, **errors, **times, **facts, "command": command, "commit": commit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the folder of the runs, each named after its system")
    parser.add_argument("--commit", required=True, help="of the code that trained")
    options = parser.parse_args()
    rows = [row(options.runs / system, options.commit) for system in SYSTEMS if (options.runs / system).is_dir()]
    units = {"mae": "kcal/mol, kcal/mol/Å"}
    RESULTS.write_text(json.dumps({"units": units, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
