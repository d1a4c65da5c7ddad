"""One training of the table of MD17, its row in experiments/results/md17.json and its validation errors on the
way in curves.json.

    python -m experiments.md17.train FOLDER/ethanol.npz paper
    python -m experiments.md17.train FOLDER/ethanol.npz default --labels rmd17 --split 02 --seed 2
    python -m experiments.md17.train FOLDER/ethanol.npz paper --energies_only
    python -m experiments.md17.train FOLDER/ethanol.npz default --steps 150000 --clip 1000

FOLDER holds the molecules in rMD17's layout, old_energies and old_forces included, with the official splits. Goes on
where it was interrupted. Threads: OMP_NUM_THREADS.
"""

import argparse
from pathlib import Path

from experiments.runs import RESULTS, curve, errors, fit, head_commit, shown, write_row

KEY = ("molecule", "labels", "recipe", "split", "seed")


def arguments(options: argparse.Namespace) -> list[str]:
    """Of `pygschnet fit`."""
    given = ["-c", f"preset:{options.recipe}", "-c", f"experiments/md17/{options.recipe}.yaml"]
    given += ["--data.path", str(options.path)]
    if options.labels == "rmd17":
        given += ["--data.layout", "rmd17"]
    if options.split != "01":
        given += ["--data.train_rows", f"train_{options.split}", "--data.test_rows", f"test_{options.split}"]
    if options.energies_only:
        given += ["--model.rho", "0"]
    if options.steps:
        given += ["--trainer.max_steps", str(options.steps), "--model.scheduler.init_args.T_max", str(options.steps)]
    if options.clip:
        given += ["--trainer.gradient_clip_val", str(options.clip)]
    if options.seed != 1:
        given += ["--seed_everything", str(options.seed)]
    return given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="of a molecule")
    parser.add_argument("recipe", choices=["paper", "default"])
    parser.add_argument("--labels", choices=["md17", "rmd17"], default="md17")
    parser.add_argument("--split", default="01")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--energies_only", action="store_true")
    parser.add_argument("--steps", type=int, help="other than the recipe's")
    parser.add_argument("--clip", type=int, help="gradients at this norm, other than the recipe")
    parser.add_argument("--runs", type=Path, default=Path("runs/md17"))
    parser.add_argument("--commit", help="of the code, if it is not this one")
    options = parser.parse_args()
    commit = options.commit or head_commit()  # before hours pass
    changes = [options.labels if options.labels != "md17" else "", "energies" if options.energies_only else ""]
    changes += [f"{options.steps}steps" if options.steps else "", f"clip{options.clip}" if options.clip else ""]
    changes += ["" if options.split == "01" else options.split, "" if options.seed == 1 else f"seed{options.seed}"]
    name = "-".join([options.path.stem, options.recipe, *filter(None, changes)])
    recipe = options.recipe + (", energies only" if options.energies_only else "")
    recipe += f", {options.steps:,} steps" if options.steps else ""
    recipe += f", clipped at {options.clip:,}" if options.clip else ""
    metrics = fit(arguments(options), options.runs / name)
    row = {
        "molecule": options.path.stem,
        "labels": options.labels,
        "split": options.split,
        "recipe": recipe,
        "seed": options.seed,
        **errors(metrics, "test"),
        "steps": metrics["steps"],
        "train_seconds": round(metrics["cpu_time_s"]),  # of one core: the machine may have more to do
        "command": shown(arguments(options), f"runs/md17/{name}"),
        "commit": commit,
    }
    write_row(RESULTS / "md17.json", row, KEY)
    validation = {name: row[name] for name in KEY} | curve(options.runs / name, metrics)
    write_row(RESULTS / "curves.json", validation, KEY)
    print(row)


if __name__ == "__main__":
    main()
