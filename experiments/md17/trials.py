"""What was tried for the recipe, on validation data alone: a line of trials.txt is a training, a row of trials.json.

    python -m experiments.md17.trials FOLDER [NAME ...]

FOLDER holds ethanol.npz and aspirin.npz. A line has a name, a molecule, a number of steps, and flags that are added to
`pygschnet fit -c preset:default -c experiments/md17/default.yaml`. No test frame is looked at.
"""

import argparse
import shlex
from pathlib import Path

from experiments.runs import RESULTS, errors, fit, head_commit, shown, write_row

TRIALS = Path(__file__).with_name("trials.txt")


def trials() -> list[tuple[str, str, int, list[str]]]:
    """Name, molecule, steps and flags of each."""
    lines = [line.split("#")[0] for line in TRIALS.read_text().splitlines()]
    words = [shlex.split(line) for line in lines if line.strip()]
    return [(name, molecule, int(steps), flags) for name, molecule, steps, *flags in words]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="of trials, as rho10 or ethanol-20000-rho10; all if none is given")
    parser.add_argument("--runs", type=Path, default=Path("runs/trials"))
    parser.add_argument("--commit", help="of the code, if it is not this one")
    options = parser.parse_args()
    for name, molecule, steps, flags in trials():
        label = f"{molecule}-{steps}-{name}"
        if options.names and not {name, label} & set(options.names):
            continue
        commit = options.commit or head_commit()
        arguments = ["-c", "preset:default", "-c", "experiments/md17/default.yaml"]
        arguments += ["--data.path", str(options.folder / f"{molecule}.npz"), "--trainer.max_steps", str(steps)]
        arguments += ["--model.scheduler.init_args.T_max", str(steps), "--trainer.limit_test_batches", "0", *flags]
        metrics = fit(arguments, options.runs / label)
        row = {"trial": name, "molecule": molecule, "steps": steps, **errors(metrics, "validation")}
        row |= {"train_seconds": round(metrics["cpu_time_s"]), "parameters": metrics["parameters"]}
        row |= {"command": shown(arguments, f"runs/trials/{label}"), "commit": commit}
        write_row(RESULTS / "trials.json", row, ("molecule", "steps", "trial"))
        print(f"{label:40s} {row['energy_mae']:.4f} {row['forces_mae']:.4f} {row['train_seconds']} s", flush=True)


if __name__ == "__main__":
    main()
