"""Interrupted trainings: what is saved, what is refused, and that going on gives the same bits."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
import yaml

from experiments.checks import interruptions
from experiments.checks.interruptions import final, prepare, same
from pygschnet.training import run as run_file
from pygschnet.training.checkpoint import AtomicCheckpointIO, newest_good, older
from pygschnet.training.resume import TRY_AGAIN, random_state, set_random_state
from tests.test_parallel import environment

ROOT = Path(__file__).parents[1]


def command(folder, *more, **variables):
    arguments = ["fit", "-c", "config.yaml", "--run_dir", "run", "--ckpt_path", "auto", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "pygschnet", *arguments],
        cwd=folder,
        env=environment(folder, PYTHONPATH=str(ROOT), **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process, code=0):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == code, output
    return output


def wait_for_step(folder, step, process):
    path = folder / "run/checkpoints/last.ckpt"
    until = time.monotonic() + 120
    while not path.exists() or AtomicCheckpointIO().load_checkpoint(path)["global_step"] < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A training that nobody disturbs."""
    folder = prepare(tmp_path_factory.mktemp("alone") / "training")
    finish(command(folder))
    return final(folder)


def assert_identical(found, expected):
    assert found.keys() == expected.keys() and len(found) > 100
    assert [name for name in expected if not same(found[name], expected[name])] == []


def test_killed_three_times(tmp_path):
    """`kill -9` at random moments, with shuffling, two workers and averaged weights."""
    out = tmp_path / "result.json"
    arguments = ["-m", "experiments.checks.interruptions", "--kills", "3", "--out", out]
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment(tmp_path), check=True, timeout=300)
    result = json.loads(out.read_text())
    assert result["kills"] == 3 and result["compared"] > 100
    assert result["differing"] == []


def test_signals_save_and_end(tmp_path, alone):
    """Sent to the workers too, as Slurm and terminals do; then the last checkpoint is cut in half."""
    folder = prepare(tmp_path / "training")
    for number, after in ((signal.SIGTERM, 20), (signal.SIGUSR1, 60), (signal.SIGINT, 110)):
        process = command(folder)
        wait_for_step(folder, after, process)
        sent = time.monotonic()
        os.killpg(process.pid, number)
        output = finish(process, TRY_AGAIN)
        assert time.monotonic() - sent < 60  # it takes one or two seconds where nothing else runs
        step = int(re.search(r"stopped by a signal after step (\d+): saved; pygschnet fit", output)[1])
        assert AtomicCheckpointIO().load_checkpoint(folder / "run/checkpoints/last.ckpt")["global_step"] == step < 200
        assert "Traceback" not in output
    last = folder / "run/checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    output = finish(command(folder))
    assert "last.ckpt is not a checkpoint, or is damaged" in output and "going on from last-1.ckpt" in output
    assert_identical(final(folder), alone)


def test_one_of_two_processes_is_killed(tmp_path):
    config = yaml.safe_load(interruptions.CONFIG)
    config["trainer"] |= {"devices": 2, "accelerator": "cpu", "max_steps": 120}
    alone, broken = (prepare(tmp_path / name, yaml.safe_dump(config)) for name in ("alone", "broken"))
    finish(command(alone))
    process = command(broken)
    wait_for_step(broken, 30, process)
    second = next(
        child
        for child in psutil.Process(process.pid).children()
        if child.environ().get("LOCAL_RANK") == "1" and "pygschnet" in " ".join(child.cmdline())
    )
    killed = time.monotonic()
    second.kill()
    output = process.communicate(timeout=90)[0]
    assert process.returncode != 0 and time.monotonic() - killed < 60
    assert (
        "lost contact with another process of this training" in output
        and "--ckpt_path last goes on from run/" in output
    )
    finish(command(broken))
    assert_identical(final(broken), final(alone))


TINY = {"trainer.max_steps": "6", "trainer.val_check_interval": "3", "data.num_workers": "0"}


def fit(pygschnet_command, *more, code=0):
    tiny = [word for key, value in TINY.items() for word in (f"--{key}", value)]
    return pygschnet_command("fit", "-c", "config.yaml", "--run_dir", "run", *tiny, *more, code=code)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    path = prepare(tmp_path / "training")
    monkeypatch.chdir(path)
    return path


def test_changed_settings_are_refused(folder, pygschnet_command):
    fit(pygschnet_command)
    changes = ("--data.batch_size", "9", "--model.ema_decay", "0.5", "--trainer.max_steps", "12")
    error = fit(pygschnet_command, "--ckpt_path", "last", *changes, code=1)
    assert "data.init_args.batch_size: 8 → 9" in error and "model.ema_decay: 0.9 → 0.5" in error
    assert "max_steps" not in error and "go on with it all the same with --allow_changes true" in error
    fit(pygschnet_command, "--ckpt_path", "last", *changes, "--allow_changes", "true")
    assert json.loads((folder / "run/metrics.json").read_text())["steps"] == 12


def test_longer_is_not_changed(folder, pygschnet_command):
    """A training that has ended goes on as if it had been told at once to take longer."""
    for run, parts in (("run", ("6", "13", "30")), ("at_once", ("30",))):
        for steps in parts:
            fit(pygschnet_command, "--run_dir", run, "--ckpt_path", "auto", "--trainer.max_steps", steps)
    last = [AtomicCheckpointIO().load_checkpoint(f"{run}/checkpoints/last.ckpt") for run in ("run", "at_once")]
    for name, value in last[0]["state_dict"].items():
        assert torch.equal(value, last[1]["state_dict"][name]), name


def test_epochs_and_accumulated_gradients(folder, pygschnet_command, monkeypatch):
    """Stopped wherever, a training by epochs with accumulated gradients goes on with the same bits."""
    by_epoch = ("--trainer.max_steps", "-1", "--trainer.max_epochs", "4", "--trainer.accumulate_grad_batches", "3")
    by_epoch += ("--trainer.val_check_interval", "6", "--trainer.check_val_every_n_epoch", "1")
    fit(pygschnet_command, *by_epoch, "--run_dir", "at_once")
    from pygschnet.training import Checkpoints

    real, draw = Checkpoints._agree, random.Random(1)
    for _ in range(6):
        stop = iter([False] * draw.randrange(1, 5) + [True])
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "_agree", lambda self, *a, at=stop: [next(at, False), real(self, *a)[1]])
            try:
                fit(pygschnet_command, *by_epoch, "--ckpt_path", "auto")
            except SystemExit as stopped:
                assert stopped.code == TRY_AGAIN
    fit(pygschnet_command, *by_epoch, "--ckpt_path", "auto")
    last = [AtomicCheckpointIO().load_checkpoint(f"{run}/checkpoints/last.ckpt") for run in ("run", "at_once")]
    assert last[0]["global_step"] == last[1]["global_step"] == 16
    for name, value in last[0]["state_dict"].items():
        assert torch.equal(value, last[1]["state_dict"][name]), name


def test_stopped_early_is_stopped(folder, pygschnet_command):
    """Also if the job is started once more."""
    early = ("--trainer.max_steps", "60", "--early_stopping.patience", "2", "--early_stopping.min_delta", "1e9")
    fit(pygschnet_command, *early)
    path = folder / "run/checkpoints/last.ckpt"
    step = AtomicCheckpointIO().load_checkpoint(path)["global_step"]
    fit(pygschnet_command, *early, "--ckpt_path", "auto")
    assert AtomicCheckpointIO().load_checkpoint(path)["global_step"] == step == 9


def test_an_older_checkpoint(folder, pygschnet_command):
    fit(pygschnet_command)
    store, path = AtomicCheckpointIO(), folder / "run/checkpoints/last.ckpt"
    checkpoint = store.load_checkpoint(path)
    del checkpoint["pygschnet"]
    store.save_checkpoint(checkpoint, path)
    error = fit(pygschnet_command, "--ckpt_path", "last", "--trainer.max_steps", "12", code=1)
    assert "the checkpoint has format 0, this version resumes from format 1" in error


def test_a_run_folder_that_cannot_be_written(folder, pygschnet_command, monkeypatch):
    monkeypatch.setattr(run_file, "os", SimpleNamespace(access=lambda *a: False, W_OK=os.W_OK, environ=os.environ))
    assert "nothing can be written to" in fit(pygschnet_command, code=1)


def test_a_full_disk(folder, pygschnet_command, monkeypatch):
    fit(pygschnet_command)
    real, path = Path.write_bytes, folder / "run/checkpoints/last.ckpt"
    step = AtomicCheckpointIO().load_checkpoint(path)["global_step"]

    def full(self, content):
        if self.suffix == ".part":
            real(self, b"half")
            raise OSError(28, "No space left on device")
        return real(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    error = fit(pygschnet_command, "--ckpt_path", "last", "--trainer.max_steps", "12", code=1)
    assert "No space left on device" in error
    assert AtomicCheckpointIO().load_checkpoint(path)["global_step"] == step
    assert not list(path.parent.glob("*.part"))


def test_the_last_three_are_kept(folder, pygschnet_command):
    fit(pygschnet_command, "--trainer.max_steps", "12", "--checkpoint_minutes", "0.0")
    path = folder / "run/checkpoints/last.ckpt"
    steps = [AtomicCheckpointIO().load_checkpoint(older(path, number))["global_step"] for number in range(3)]
    assert steps == [12, 11, 10]
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "best.ckpt",
        "last-1.ckpt",
        "last-2.ckpt",
        "last.ckpt",
    ]


def test_damage_is_noticed(tmp_path):
    store, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    store.save_checkpoint({"numbers": torch.zeros(1000)}, path)
    content = bytearray(path.read_bytes())
    content[content.find(bytes(500)) + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(Exception, match="is damaged: the checksum of last.ckpt.*/data/0 is wrong|checksum"):
        store.load_checkpoint(path)
    with pytest.raises(Exception, match="no checkpoint can be used: .*last.ckpt is damaged"):
        newest_good(path)
    assert newest_good(tmp_path / "other.ckpt") is None


def test_random_numbers_go_on(tmp_path):
    states = random_state()
    store = AtomicCheckpointIO()
    store.save_checkpoint(states, tmp_path / "state.ckpt")
    drawn = [(torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) for _ in range(2)]
    set_random_state(store.load_checkpoint(tmp_path / "state.ckpt"))
    again = [(torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) for _ in range(2)]
    assert drawn == again
