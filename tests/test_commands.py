"""Every command and every program that the documentation shows is run, in a folder with the files it names.

Only what stands in `NOT_RUN` is not, for the reason that stands there, and even that is parsed or looked at.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
import pytorch_lightning as pl
import yaml
from ase.calculators.singlepoint import SinglePointCalculator

from pygschnet.cli import main
from tests.test_readers import METHANE, REFERENCES, RULE, tar_bytes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(sh|python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MODEL = "runs/ethanol/model.safetensors"

SHORT = {  # what is added to a command to make it short
    "fit": "--trainer.max_steps 2 --trainer.check_val_every_n_epoch null --trainer.val_check_interval 1 "
    "--trainer.enable_progress_bar false --data.train 8 --data.val 4 --data.test 4",
    "test": "--trainer.enable_progress_bar false",
    "predict -c": "--trainer.enable_progress_bar false",
    "md": "--steps 10 --interval 5",
    "md --restart": "--steps 20 --interval 5 --restart true",
    "explain": "--spacing 0.8 --structures 20",
}
TINY = (
    "--model.representation.init_args.features 8 --model.representation.init_args.filters 8 "
    "--model.representation.init_args.interactions 2 --model.head.init_args.features 8"
)
RENAMED = {"model.pt2": "model.ep", "ethanol.pt2": "ethanol.ep"}  # compiling takes a minute; tests/test_export.py does
NOT_RUN = {  # how these begin, and why they are only parsed
    "pip install": "changes the environment",
    "make": "sets up an environment of its own",
    "sbatch": "needs Slurm",
    "bash experiments/cluster/": "needs GPUs",
    "NODE=0": "needs two machines",
    "pygschnet fit -c my.yaml --trainer.devices 4": "needs four GPUs",
    "import ase.io, torch_sim": "torch-sim is no dependency; tests/test_torchsim.py has the same calls",
    "import json, torch\n\nprogram = torch._inductor": "needs a compiled file; tests/test_export.py has the same calls",
}


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    """A folder with everything that the documentation takes for granted: small, in the true formats."""
    folder = tmp_path_factory.mktemp("documentation")
    shutil.copytree(ROOT / "data", folder / "data")
    (folder / "experiments").symlink_to(ROOT / "experiments")
    with np.load(ROOT / "data" / "ethanol.npz") as file:
        arrays = {name: file[name][:20] if name in "REF" else file[name] for name in file.files}
    for name in ("my.npz", "other.npz"):
        np.savez(folder / name, **arrays)
    settings = {"class_path": "MD17", "init_args": {"path": "my.npz"}}
    (folder / "my.yaml").write_text(yaml.safe_dump({"model": {"rho": 100.0}, "data": settings}))
    frames = []
    for positions, energy, forces in zip(arrays["R"], arrays["E"], arrays["F"], strict=True):
        atoms = ase.Atoms(arrays["z"], positions)
        atoms.calc = SinglePointCalculator(atoms, energy=float(energy), forces=forces)
        frames.append(atoms)
    for name in ("my.extxyz", "frames.xyz", "frames.extxyz", "labelled.extxyz", "hot.extxyz"):
        ase.io.write(folder / name, frames, format="extxyz")
    ase.io.write(folder / "start.xyz", frames[0])
    for name in ("benzene.xyz", "toluene.xyz"):  # one ring stands for both
        ase.io.write(folder / name, ase.build.molecule("C6H6"))
    shutil.copy(ROOT / "tests" / "fixtures" / "foreign" / "schnetpack2.model", folder / "best_model")
    force_field(folder / "ethanol-sgdml.npz", arrays)
    qm9(folder, folder / "data" / "qm9")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(f"pygschnet fit -c experiments/sample.yaml {TINY} --run_dir runs/ethanol", patch)
    for name in ("qm9", "qm9-1", "qm9-2"):
        shutil.copytree(folder / "runs" / "ethanol", folder / "runs" / name)
    return folder


def qm9(*folders):
    """The files of figshare, with forty methanes in them."""
    molecules = {
        f"dsgdb9nsd_{k:06}.xyz": METHANE.replace("gdb 1\t", f"gdb {k}\t")
        .replace("-40.47893", f"-40.4789{k:02}")
        .encode()
        for k in range(1, 41)
    }
    numbers = "".join(f"{k:8}    C    C    C    6.0\n" for k in range(100_001, 103_055))
    head = f"\nList of molecules among the 133885 GDB9 molecules\nfor\nwhich\n\n\n{RULE}\n# Index SMILES\n{RULE}\n"
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / "dsgdb9nsd.xyz.tar.bz2").write_bytes(tar_bytes(molecules, "w:bz2"))
        (folder / "uncharacterized.txt").write_text(f"{head}{numbers}{RULE}\n")
        (folder / "atomref.txt").write_text(REFERENCES)


def force_field(path, arrays):
    """What the code of sGDML would write, of two frames, with weights that mean nothing."""
    i, j = np.tril_indices(len(arrays["z"]), -1)
    points = 1 / np.linalg.norm(arrays["R"][:2, i] - arrays["R"][:2, j], axis=-1)
    permutations = np.arange(len(arrays["z"]))[None]
    np.savez(
        path, z=arrays["z"], perms=permutations, R_desc=points.T, R_d_desc_alpha=0.1 * points, sig=10, c=0.0, std=1.0
    )


def reason(text):
    return next((why for beginning, why in NOT_RUN.items() if text.startswith(beginning)), None)


def run(line, monkeypatch):
    """Run a line of a shell, cut short; raises SystemExit or something else if it goes wrong."""
    words = [RENAMED.get(word, os.path.expanduser(word)) for word in shlex.split(line, comments=True)]
    while "=" in words[0]:
        monkeypatch.setenv(*words.pop(0).split("="))
    program, *arguments = words
    if reason(line):
        return parse(program, arguments, monkeypatch)
    assert program == "pygschnet", f"nobody knows how to run {program}"
    name = arguments[0]
    for longer in (f"{name} -c", f"{name} --restart"):
        if longer in SHORT and longer.split()[1] in arguments:
            name = longer
    if name.startswith("fit") and "--run_dir" in arguments and "--ckpt_path" not in arguments:
        shutil.rmtree(arguments[arguments.index("--run_dir") + 1], ignore_errors=True)
    call([*arguments, *SHORT.get(name, "").split()], monkeypatch)


def call(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pygschnet", *arguments])
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise


def parse(program, arguments, monkeypatch):
    """What cannot be run here is at least something that could be."""
    if program == "pip":
        known = (ROOT / "pyproject.toml").read_text()
        extras = tomllib.loads(known)["project"]["optional-dependencies"]
        named = {re.split(r"[>=<\[]", each)[0] for group in extras.values() for each in group}
        assert arguments[0] == "install" and (arguments[1:] == ["-e", "."] or set(arguments[1:]) <= named)
    elif program == "make":
        subprocess.run(["make", "-n", "PY=true", *arguments], cwd=ROOT, check=True, capture_output=True)
    elif program in ("sbatch", "bash"):
        for name in ("srun", "torchrun"):  # these write down what they are to start
            Path(name).write_text('#!/bin/bash\nprintf "%s\\n" "$@" > started\n')
            Path(name).chmod(0o755)
        variables = ("SLURM_JOB_ID", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES", "SLURM_ARRAY_TASK_ID", "GPUS")
        environment = dict.fromkeys(variables, "1") | os.environ
        environment["PATH"] = f"{Path.cwd()}:{environment['PATH']}"
        subprocess.run(["bash", *arguments], check=True, env=environment)
        started = Path("started").read_text().splitlines()
        call([*started[started.index("pygschnet") + 1 :], "--print_config"], monkeypatch)
    else:
        call([*arguments, "--print_config"], monkeypatch)


def blocks(page):
    return FENCE.findall(page.read_text())


def parts(kind, text):
    """The lines of a shell's block, and other blocks as a whole."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.split("#")[0].strip()] if kind == "sh" else [text]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_what_the_documentation_shows_works(page, kitchen, tmp_path, monkeypatch, capsys):
    shutil.copytree(kitchen, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    short = {"max_steps": 2, "limit_val_batches": 1, "enable_checkpointing": False, "logger": False}
    monkeypatch.setattr(pl, "Trainer", partial(pl.Trainer, **short))
    names, failed = {}, []
    for kind, text in blocks(page):
        for part in parts(kind, text):
            with pytest.MonkeyPatch.context() as patch:
                try:
                    if kind == "sh":
                        run(part, patch)
                    elif kind == "yaml":
                        Path("block.yaml").write_text(part)
                        call(["fit", "-c", "block.yaml", "--print_config"], patch)
                    else:
                        program = compile(part, str(page), "exec")
                        if not reason(part):
                            exec(program, names)
                except (Exception, SystemExit) as error:  # the others are to be seen too
                    failed.append(f"{part}\n  {type(error).__name__}: {error}\n{capsys.readouterr().err[-1000:]}")
    assert not failed, "\n".join(failed)


def test_every_exception_is_needed():
    shown = [part for page in PAGES for block in blocks(page) for part in parts(*block)]
    assert [beginning for beginning in NOT_RUN if not any(part.startswith(beginning) for part in shown)] == []
    words = {word for part in shown for word in part.split()}
    assert set(RENAMED) <= words


def test_a_wrong_command_fails(kitchen, monkeypatch):
    monkeypatch.chdir(kitchen)
    for line in ("pygschnet fit -c my.yaml --model.roh 3", "pygschnet fti", "sh unknown.sh", "sbatch none.sbatch"):
        with pytest.raises((SystemExit, AssertionError, subprocess.CalledProcessError)):
            run(line, monkeypatch)
