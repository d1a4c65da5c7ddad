"""The question of ISO17, chemistry and conformation at once, on smaller data: energies with and without forces.

    python -m experiments.conformation.train qm7x ../shared/data/qm7x_sample
    python -m experiments.conformation.train acac ../shared/data/botnet/dataset_acac
    python -m experiments.conformation.train methanol ../shared/data/botnet/dataset_ethanol

Each trains twice, and adds its rows, one for each test set, to experiments/results/conformation.json.
"""

import argparse
from pathlib import Path

import numpy as np
import yaml

from experiments.runs import RESULTS, errors, fit, head_commit, shown, write_row
from pygschnet.datasets import Files
from pygschnet.evaluate import evaluate

FOLDER = Path(__file__).parent
TESTS = {  # name of a test set: what tells it from the training's data
    "qm7x": {"known molecules": {}, "unknown molecules": {"split_file": "unknown"}},
    "acac": {"300 K": {}, "600 K": {"test_rows": "test_MD_600K"}},
    "methanol": {"ethanol": {}, "methanol": {"test_rows": "methanol"}},
}


def split_qm7x(file: Path, folder: Path) -> dict[str, Path]:
    """Of 200 molecules seven frames for training, one for validation and two for the test; the other 50 are unknown.

    Frames of a molecule stand together, ten each, about in the order of their energies: so the seven are drawn. The few
    molecules with chlorine are among the known ones.
    """
    with np.load(file) as arrays:
        owner = np.repeat(np.arange(250), arrays["n_atoms"].astype(int).reshape(250, 10).sum(1))
        chlorine = np.unique(owner[arrays["Z"] == 17])
    random = np.random.default_rng(0)
    order = random.permutation(250)
    order = np.concatenate([chlorine, order[~np.isin(order, chlorine)]])
    frames = order[:, None] * 10 + random.permuted(np.tile(np.arange(10), (250, 1)), axis=1)
    known, unknown = frames[:200], frames[200:]
    common = {"train": known[:, :7].ravel(), "val": known[:, 7].ravel()}
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"qm7x-{name}.npz" for name in ("known", "unknown")}
    np.savez(paths["known"], **common, test=known[:, 8:].ravel())
    np.savez(paths["unknown"], **common, test=unknown.ravel())
    return paths


def rows_of_methanol(folder: Path, settings: dict) -> Path:
    """Rows of the frames of methanol, of which there are some in a file of both."""
    data = Files(**settings)
    data.prepare_data()
    data.setup("predict")
    atoms = np.diff(data.store["ptr"])
    path = folder / "methanol.txt"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(str, np.flatnonzero(atoms == 6))))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(TESTS))
    parser.add_argument("data", type=Path, help="folder of the files")
    parser.add_argument("--runs", type=Path, default=Path("runs/conformation"))
    parser.add_argument("--steps", type=int, default=20000)
    options = parser.parse_args()
    commit = head_commit()
    settings = yaml.safe_load((FOLDER / f"{options.task}.yaml").read_text())["data"]["init_args"]
    path = settings["path"]
    settings["path"] = (
        [str(options.data / name) for name in path] if isinstance(path, list) else str(options.data / path)
    )
    made = {}
    if options.task == "qm7x":
        made = split_qm7x(Path(settings["path"]), options.runs)
        settings["split_file"] = str(made["known"])
    if options.task == "methanol":
        made = {"methanol": rows_of_methanol(options.runs, settings)}
    files = ["-c", "preset:default", "-c", f"experiments/conformation/{options.task}.yaml"]
    files += ["-c", "experiments/conformation/train.yaml"]
    for labels, flags in (("energies", ["--model.rho", "0"]), ("energies and forces", [])):
        given = [*files, "--data.path", _as_argument(settings["path"]), "--trainer.max_steps", str(options.steps)]
        given += ["--model.scheduler.init_args.T_max", str(options.steps), *flags]
        given += ["--data.split_file", settings["split_file"]] if "split_file" in settings else []
        run = options.runs / f"{options.task}-{labels.replace(' ', '-')}"
        metrics = fit(given, run)
        for test, changes in TESTS[options.task].items():
            changed = {key: str(made.get(value, value)) for key, value in changes.items()}
            found = evaluate(str(run / "model.safetensors"), data=Files(**(settings | changed)), part="test")
            row = {"task": options.task, "trained on": labels, "tested on": test}
            row |= {"steps": metrics["steps"], "train_seconds": round(metrics["cpu_time_s"])}
            row |= {"command": shown(given, f"runs/conformation/{run.name}"), "commit": commit}
            kinds = {"energy_mae": found["errors"]["energy"], "forces_mae": found["errors"]["forces"]}
            row |= errors({"test": {name: {"value": error["mae"]} for name, error in kinds.items()}}, "test")
            row["structures"] = kinds["energy_mae"]["count"]
            write_row(RESULTS / "conformation.json", row, ("task", "trained on", "tested on"))
            print(row)


def _as_argument(path: str | list[str]) -> str:
    return path if isinstance(path, str) else "[" + ", ".join(path) + "]"


if __name__ == "__main__":
    main()
