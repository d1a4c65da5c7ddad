"""The table of the comparison, from the runs.

    for system in schnet dtnn wacsf enn_s2s gdml sgdml mean; do
      pygschnet fit -c experiments/comparison/$system.yaml --data.path ethanol.npz --run_dir runs/comparison/$system
    done
    python -m experiments.comparison.table runs/comparison --commit COMMIT

Writes experiments/results/comparison.json and prints its rows.
"""

import argparse
import json
from pathlib import Path

from pygschnet.units import unit_factor

RESULTS = Path(__file__).parents[1] / "results" / "comparison.json"
SYSTEMS = ("mean", "schnet", "dtnn", "wacsf", "enn_s2s", "gdml", "sgdml", "gdml_1000", "sgdml_1000")

THOUSAND = " --data.train 1000 --data.val_rows experiments/comparison/ethanol_validation.txt"
"""All of train_01; the names of these runs end with _1000."""


def row(run: Path, commit: str) -> dict:
    """What the table says of a run: errors in kcal/mol and kcal/mol/Å."""
    metrics = json.loads((run / "metrics.json").read_text())
    kcal = 1 / unit_factor("kcal/mol")
    errors = {
        f"{part}_{quantity}_mae": round(metrics[part][f"{quantity}_mae"]["value"] * kcal, 4)
        for part in ("validation", "test")
        for quantity in ("energy", "forces")
    }
    system, thousand, _ = run.name.partition("_1000")
    shorter = "" if system != "enn_s2s" else f" --trainer.max_steps {metrics['steps']}"
    files = f"-c experiments/comparison/{system}.yaml --data.path ethanol.npz{THOUSAND if thousand else ''}{shorter}"
    command = f"pygschnet fit {files} --run_dir runs/comparison/{run.name}"
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
    for each in rows:
        minutes = f"{each['cpu_time_s'] / 60:.1f}"
        print(f"| {each['system']} | {each['test_energy_mae']:.3f} | {each['test_forces_mae']:.3f} | {minutes} |")


if __name__ == "__main__":
    main()
