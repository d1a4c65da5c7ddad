"""The experiments can be run: their settings fit the command line, their records say what was done."""

import json
from argparse import Namespace
from pathlib import Path

import ase.db
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import yaml
from ase import Atoms

from experiments.conformation.train import split_qm7x
from experiments.figures import curves
from experiments.figures.discrete import energies, on_grid, stretched
from experiments.md17 import train as md17
from experiments.md17.trials import trials
from experiments.runs import curve, shown, write_row
from pygschnet.training.run import flatten
from pygschnet.units import unit_factor
from tests.structures import make_model

ROOT = Path(__file__).parents[1]
ISOMER = "C7O2H10"


@pytest.fixture
def iso17(tmp_path):
    """A folder in the format of ISO17: databases with isomers' frames, ids counted from 1."""
    folder, rng = tmp_path / "iso17", np.random.default_rng(0)
    folder.mkdir()
    sites = np.stack(np.unravel_index(np.arange(19), (3, 3, 3)), axis=-1) * 1.4
    for name, frames in (("reference", 8), ("test_within", 3), ("test_other", 4)):
        with ase.db.connect(folder / f"{name}.db") as database:
            for _ in range(frames):
                atoms = Atoms(ISOMER, sites + rng.uniform(-0.2, 0.2, (19, 3)))
                labels = {"atomic_forces": rng.normal(size=(19, 3)).tolist()}
                database.write(atoms, total_energy=-11503.6 + rng.normal(), data=labels)
    (folder / "train_ids.txt").write_text("\n".join("124578"))
    (folder / "validation_ids.txt").write_text("3\n6\n")
    return tmp_path


@pytest.mark.parametrize(("flags", "tested"), [((), 4), (("--data.unknown", "false"), 3), (("--model.rho", "0"), 4)])
def test_the_configuration_of_iso17_trains(iso17, flags, tested, pygschnet_command, monkeypatch):
    monkeypatch.chdir(ROOT)
    run = iso17 / "run"
    short = ("--trainer.max_steps", "2", "--trainer.val_check_interval", "1", "--trainer.enable_progress_bar", "false")
    files = ("-c", "preset:paper", "-c", "experiments/iso17/train.yaml", "--data.root", str(iso17))
    pygschnet_command("fit", *files, *flags, *short, "--run_dir", str(run))
    assert json.loads((run / "metrics.json").read_text())["split"] | {"sha256": ""} == {
        "train": 6, "val": 2, "test": tested, "sha256": "",
    }  # fmt: skip


SHARED_SETTINGS = "experiments/conformation/train.yaml"
TRAININGS = [
    ["-c", "preset:paper", "-c", "experiments/md17/paper.yaml"],
    ["-c", "experiments/qm9/electronic_energy.yaml"],
    ["-c", "preset:default", "-c", "experiments/surrogate/train.yaml"],
    *(
        [
            "-c",
            "preset:default",
            "-c",
            f"experiments/conformation/{task}.yaml",
            "-c",
            "experiments/conformation/train.yaml",
        ]
        for task in ("qm7x", "acac", "methanol")
    ),
    *(
        ["-c", "preset:default", "-c", "experiments/md17/default.yaml", *flags]
        for flags in dict.fromkeys(tuple(flags) for *_, flags in trials())
    ),
]


@pytest.mark.parametrize("arguments", TRAININGS, ids=lambda arguments: " ".join(arguments[3:]))
def test_trainings_are_understood(arguments, pygschnet_command, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        pygschnet_command("fit", *arguments, "--print_config")
    assert end.value.code == 0


def test_recipes_differ_from_their_presets_in_the_training_alone():
    """So that the preset is the network, and the file beside it the training."""
    for recipe in ("paper", "default"):
        settings = flatten(yaml.safe_load((ROOT / f"experiments/md17/{recipe}.yaml").read_text())["model"])
        network = {key for key in settings if key.startswith(("representation", "head"))}
        assert network <= {"representation.init_args.embedding_std", "head.init_args.scale"}
    paper, default = (
        yaml.safe_load((ROOT / f"experiments/md17/{recipe}.yaml").read_text())["data"]["init_args"]
        for recipe in ("paper", "default")
    )
    assert {key for key in paper if paper[key] != default[key]} <= {"batch_size"}


def test_commands_name_what_was_changed_and_no_folders():
    changes = {"labels": "rmd17", "split": "02", "energies_only": True, "steps": 10, "clip": 5, "seed": 3}
    options = Namespace(path=Path("/somewhere/else/ethanol.npz"), recipe="default", **changes)
    command = shown(md17.arguments(options), "runs/md17/ethanol")
    assert command == (
        "pygschnet fit -c preset:default -c experiments/md17/default.yaml --data.path ethanol.npz --data.layout rmd17 "
        "--data.train_rows train_02 --data.test_rows test_02 --model.rho 0 --trainer.max_steps 10 "
        "--model.scheduler.init_args.T_max 10 --trainer.gradient_clip_val 5 --seed_everything 3 "
        "--run_dir runs/md17/ethanol"
    )


def test_lists_of_files_lose_their_folders_too():
    command = shown(["-c", "experiments/a.yaml", "--data.path", "[/some/a.xyz, ../where/b.xyz, data/c.xyz]"], "runs/a")
    assert "'[a.xyz, b.xyz, data/c.xyz]'" in command and "-c experiments/a.yaml" in command


def test_a_row_takes_the_place_of_its_predecessor(tmp_path):
    path = tmp_path / "table.json"
    for molecule, error in (("b", 1.0), ("a", 2.0), ("b", 3.0)):
        write_row(path, {"molecule": molecule, "error": error}, ("molecule",))
    assert json.loads(path.read_text())["rows"] == [{"molecule": "a", "error": 2.0}, {"molecule": "b", "error": 3.0}]


def test_unknown_molecules_are_unknown(tmp_path):
    rng = np.random.default_rng(0)
    atoms = np.repeat(rng.integers(5, 20, 250), 10)
    chlorine = rng.permutation(250)[:20]
    elements = np.concatenate([np.full(n, 17 if k // 10 in chlorine else 6) for k, n in enumerate(atoms)])
    np.savez(tmp_path / "qm7x.npz", n_atoms=atoms.astype(np.uint8), Z=elements)
    paths = split_qm7x(tmp_path / "qm7x.npz", tmp_path / "made")
    known, unknown = (dict(np.load(paths[name])) for name in ("known", "unknown"))
    of_training, of_test, foreign = (set(rows // 10) for rows in (known["train"], known["test"], unknown["test"]))
    assert of_training == of_test and not of_training & foreign and len(foreign) == 50
    assert not np.intersect1d(known["train"], known["test"]).size and not foreign & set(chlorine)
    assert np.array_equal(known["train"], unknown["train"])
    # a molecule's frames stand in the order of their energies: the first ones alone would be the calm ones
    places = [np.bincount(known[part] % 10, minlength=10) / len(known[part]) for part in ("train", "val", "test")]
    assert np.abs(np.array(places) - 0.1).max() < 0.07


def test_energies_jump_with_filters_on_a_grid():
    model = make_model("schnetpack").float()
    model.head.sigma.fill_(1.0)
    lengths = np.linspace(1.3, 1.6, 61)
    jumps = [np.abs(np.diff(energies(each, stretched(lengths)), n=2)).max() for each in (on_grid(model), model)]
    assert jumps[0] > 20 * jumps[1]
    assert torch.equal(on_grid(model).representation.embedding.weight, model.representation.embedding.weight)


def test_validation_errors_of_a_training_that_was_resumed(tmp_path):
    head, kcal = "step,train/loss,val/energy_mae,val/forces_mae\n", unit_factor("kcal/mol")
    first, second = f"99,,{kcal},{2 * kcal}\n", f"199,,{0.5 * kcal},{kcal}\n"
    for version, text in enumerate((f"{head}49,1.0,,\n{first}", head + first + second)):
        (tmp_path / f"logs/version_{version}").mkdir(parents=True)
        (tmp_path / f"logs/version_{version}/metrics.csv").write_text(text)
    found = curve(tmp_path, {"cpu_time_s": 10.0, "steps": 200})
    assert found == {"step": [100, 200], "seconds_per_step": 0.05, "energy_mae": [1.0, 0.5], "forces_mae": [2.0, 1.0]}


def test_errors_are_reached_when_both_stay_small():
    errors = {"energy_mae": [0.07, 0.07, 0.09, 0.07, 0.06], "forces_mae": [0.5, 0.3, 0.3, 0.3, 0.2]}
    training = {"step": [60, 120, 180, 240, 300], "seconds_per_step": 1.0, **errors}
    assert curves.reached(training) == 4.0
    assert curves.reached(training | {"forces_mae": [0.5] * 5}) is None


@pytest.mark.parametrize("picture", curves.PICTURES)
def test_curves_are_drawn(picture, tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "RESULTS", tmp_path)
    training = {"molecule": "ethanol", "labels": "md17", "split": "01", "recipe": "default", "step": [60, 120]}
    training |= {"seed": 1, "energy_mae": [1.0, 0.1], "forces_mae": [2.0, 0.2], "seconds_per_step": 1.0}
    rows = {
        "curves": [
            training,
            training | {"molecule": "aspirin", "recipe": "paper"},
            training | {"seed": 2, "step": [1, 2]},
        ],
        "qm9": [{"molecules": 10**power, "steps": 100, "energy_mae": 1 / power} for power in (3, 4)],
    }
    for name, found in rows.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": found}))
    draw, panels = curves.PICTURES[picture]
    figure, axes = plt.subplots(1, panels, squeeze=False)
    draw(list(axes[0]))
    drawn = {line.get_label(): line.get_xdata() for line in axes[0][0].lines}
    plt.close(figure)
    if picture == "time":
        assert list(drawn) == ["default, 120 steps", "the paper"]  # neither another molecule nor another seed
        assert list(drawn["default, 120 steps"]) == [1.0, 2.0]
    else:
        assert list(drawn["electronic energy, 100 steps"]) == [1000, 10000]
