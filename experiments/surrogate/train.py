r"""The right half of Table 2 of arXiv:1706.08566, N = 50,000, with the labels of a force field in place of DFT.

    pygschnet convert FOLDER/ethanol.npz sgdml.safetensors --energy_unit kcal/mol
    pygschnet md sgdml.safetensors experiments/surrogate/ethanol.xyz --steps 260500 --temperature 500 --interval 5 \
      --out runs/surrogate
    python -m experiments.surrogate.train

FOLDER holds the reference model of sGDML. Trains on 1,000 and on 50,000 frames, with and without forces, and adds the
rows to experiments/results/surrogate.json. What is learnt is that force field, not quantum chemistry.
"""

import argparse
from pathlib import Path

from experiments.runs import RESULTS, errors, fit, head_commit, shown, write_row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/surrogate"))
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--only", nargs="*", default=[], help="of the trainings, such as 50000-energies")
    options = parser.parse_args()
    trainings = {"energies": ["--model.rho", "0", "--data.batch_size", "32"], "energies and forces": []}
    for molecules in (50_000, 1_000):
        for labels, flags in trainings.items():
            name = f"{molecules}-{labels.replace(' ', '-')}"
            if options.only and name not in options.only:
                continue
            commit = head_commit()
            given = ["-c", "preset:default", "-c", "experiments/surrogate/train.yaml"]
            given += ["--data.path", str(options.runs / "trajectory.extxyz"), "--data.train", str(molecules)]
            given += ["--trainer.max_steps", str(options.steps), *flags]
            given += ["--model.scheduler.init_args.T_max", str(options.steps)]
            metrics = fit(given, options.runs / name)
            row = {"molecules": molecules, "trained on": labels, **errors(metrics, "test"), "steps": metrics["steps"]}
            row |= {"train_seconds": round(metrics["cpu_time_s"])}
            row |= {"command": shown(given, f"runs/surrogate/{name}"), "commit": commit}
            write_row(RESULTS / "surrogate.json", row, ("molecules", "trained on"))
            print(row)


if __name__ == "__main__":
    main()
