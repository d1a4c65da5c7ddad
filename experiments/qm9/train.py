"""Electronic energies of QM9's geometries against the number of molecules trained on.

    python -m experiments.qm9.train ../shared/data/qm9_eel/qm9_eel_dipole.npz 1000 10000 50000 110000 --steps 30000

The labels are U0 without the zero-point energy, so no error here is one of U0. 1,000 molecules for validation, those
that are left for the test, 18 thousand at most. Adds its rows to experiments/results/qm9.json.
"""

import argparse
from pathlib import Path

from experiments.runs import RESULTS, errors, fit, head_commit, shown, write_row

TEST = 17_716
"""What 110,000 leave; the others are tested on as many, so that the curve is of one length."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="of the flat npz")
    parser.add_argument("molecules", type=int, nargs="+", help="how many to train on")
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/qm9"))
    options = parser.parse_args()
    for molecules in options.molecules:
        commit = head_commit()
        given = ["-c", "experiments/qm9/electronic_energy.yaml", "--data.path", str(options.path)]
        given += ["--data.train", str(molecules), "--data.test", str(TEST), "--trainer.max_steps", str(options.steps)]
        given += ["--model.scheduler.init_args.steps", str(options.steps), "--seed_everything", str(options.seed)]
        name = f"{molecules}-{options.steps}-{options.seed}"
        metrics = fit(given, options.runs / name)
        row = {"molecules": molecules, "steps": options.steps, "seed": options.seed, **errors(metrics, "test")}
        row |= {"label": "electronic energy", "train_seconds": round(metrics["cpu_time_s"])}
        row |= {"command": shown(given, f"runs/qm9/{name}"), "commit": commit}
        write_row(RESULTS / "qm9.json", row, ("steps", "molecules", "seed"))
        print(row)


if __name__ == "__main__":
    main()
