"""Trainings that run away go back, whatever it was; those that do not are left alone."""

import pytest
import pytorch_lightning as pl
import torch

from pygschnet.training import Rewind
from pygschnet.training.checkpoint import AtomicCheckpointIO
from pygschnet.training.rewind import state
from tests.test_resume import fit, folder  # noqa: F401
from tests.test_training import labelled, loaders, small, trainer


class Damage(pl.Callback):
    """Multiplies all weights before some steps."""

    def __init__(self, steps, factor):
        self.steps, self.factor = steps, factor

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_step in self.steps:
            with torch.no_grad():
                for weights in module.model.parameters():
                    weights.mul_(self.factor)


class Record(pl.Callback):
    """Weights, averages, moments and counters before every step."""

    def __init__(self):
        self.states = {}

    def on_train_batch_start(self, trainer, module, batch, index):
        self.states[trainer.global_step] = [each.detach().clone() for each in state(module, trainer.optimizers[0])]


def states(tmp_path, *callbacks, steps=40):
    module, record = small(ema_decay=0.9, optimizer=lambda weights: torch.optim.Adam(weights, lr=1e-3)), Record()
    torch.manual_seed(1)
    train, val = loaders(labelled(12))
    trainer(tmp_path, max_steps=steps, max_epochs=-1, callbacks=[record, *callbacks]).fit(module, train, val)
    return record.states


def messages(warned):
    return [text for each in warned if "run away" in (text := str(each.message))]


def test_what_does_not_run_away_is_left_alone(tmp_path):
    plain, watched = states(tmp_path), states(tmp_path, Rewind(every=5))
    for step, tensors in plain.items():
        assert all(map(torch.equal, tensors, watched[step])), step


@pytest.mark.parametrize("factor", [30.0, float("nan"), float("inf")])
def test_back_to_where_all_was_well(tmp_path, factor):
    """And on from there with the learning rates and batches of later steps."""
    with pytest.warns(UserWarning, match=r"has run away: at step 25 the .* is usual; it goes on with the ") as warned:
        found = states(tmp_path, Damage([25], factor), Rewind(factor=50.0, every=5), steps=27)
    step = int(messages(warned)[0].split()[-1])
    back, went, models = states(tmp_path, steps=25)[step], found[26], len(list(small().model.parameters()))
    assert 5 <= step < 25
    assert all(map(torch.equal, went[:models] + went[2 * models :], back[:models] + back[2 * models :]))
    for average, before, weights in zip(went[models : 2 * models], back[models:], back[:models], strict=False):
        torch.testing.assert_close(average, 0.9 * before + 0.1 * weights, rtol=1e-5, atol=1e-7)


def test_again_and_again(tmp_path):
    with pytest.warns(UserWarning, match="has run away") as warned:
        found = states(tmp_path, Damage([20, 22, 30], 1e3), Rewind(factor=50.0, every=5))
    told = messages(warned)
    assert all(step in message for step, message in zip(("step 20", "step 22", "step 30"), told, strict=True))
    assert all(torch.isfinite(each).all() for each in found[39])


def test_an_interruption_changes_nothing(folder, pygschnet_command):  # noqa: F811
    """Also if a training runs away right after it: what to go back to is in the checkpoint."""
    flags = "--trainer.callbacks+=pygschnet.training.Rewind --trainer.callbacks.every 3 --trainer.callbacks.factor 30"
    flags += (
        " --trainer.callbacks+=tests.test_rewind.Damage --trainer.callbacks.steps [13] --trainer.callbacks.factor 1e3"
    )
    for run, parts in (("run", ("12", "20")), ("at_once", ("20",))):
        for steps in parts:
            more = (*flags.split(), "--run_dir", run, "--ckpt_path", "auto", "--trainer.max_steps", steps)
            if steps == "12":
                fit(pygschnet_command, *more)
            else:
                with pytest.warns(UserWarning, match="has run away: at step 13 "):
                    fit(pygschnet_command, *more)
    last = [AtomicCheckpointIO().load_checkpoint(f"{run}/checkpoints/last.ckpt") for run in ("run", "at_once")]
    for name, value in last[0]["state_dict"].items():
        assert torch.equal(value, last[1]["state_dict"][name]), name
