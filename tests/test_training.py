"""The loss, the averages, the schedule, and that training trains."""

import itertools
import json
import math
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import ReduceLROnPlateau
from torch.optim.lr_scheduler import LambdaLR
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

import pygschnet
from experiments.benchmarks.systems import WORKS
from experiments.benchmarks.systems import graph as graph_of
from pygschnet import Atomwise, InputError, Prediction, RadiusGraph, SchNet
from pygschnet.training import AtomisticModule, ContinuousDecay, CosineDecay, RunReport, energy_forces_loss
from pygschnet.training.checkpoint import AtomicCheckpointIO
from pygschnet.training.memory import PER_WEIGHT, training_megabytes
from pygschnet.training.module import concatenate
from tests.structures import ethanol, graph, make_model, randomise


def small(**settings) -> AtomisticModule:
    torch.manual_seed(0)
    representation = SchNet(16, 16, 2, gaussians=20, gaussian_stop=5.0, gamma=None)
    return AtomisticModule(representation, Atomwise(16), **settings)


def labelled(count: int, forces: bool = True) -> list[Data]:
    """Frames of ethanol with energies and forces of a random SchNet."""
    teacher, frames = make_model("paper"), []
    for seed in range(count):
        data = graph(ethanol(seed), teacher)
        prediction = teacher(data)
        data.energy = prediction.energy.detach() - 100.0
        if forces:
            data.forces = prediction.forces.detach()
        frames.append(data)
    return frames


def loaders(frames, batch_size=4, val=4):
    return DataLoader(frames[val:], batch_size, shuffle=True), DataLoader(frames[:val], val)


def trainer(tmp_path, **settings) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"log_every_n_steps": 1, "accelerator": "cpu"} | settings,
    )


def test_loss_by_hand():
    """Two molecules of different size: each has its own 1/n, then the mean over molecules."""
    data = Batch.from_data_list(
        [
            Data(pos=torch.zeros(1, 3), energy=torch.tensor([1.0]), forces=torch.tensor([[1.0, 2.0, 2.0]])),
            Data(pos=torch.zeros(2, 3), energy=torch.tensor([5.0]), forces=torch.zeros(2, 3)),
        ]
    )
    forces = torch.tensor([[0.0, 0, 0], [0, 0, 0], [3.0, 0, 4.0]])
    prediction = Prediction(torch.tensor([1.5, 3.0]), forces, None, torch.zeros(3))
    terms = {"squared": ((0.25, 4.0), (9 / 1, 25 / 2)), "absolute": ((0.5, 2.0), (3 / 1, 5 / 2))}
    for rho, weight, loss in itertools.product((0.0, 0.01, 100.0), (0.0, 1.0, 3.0), terms):
        expected = sum(weight * e + rho * f for e, f in zip(*terms[loss], strict=True)) / 2
        assert energy_forces_loss(prediction, data, rho, weight, loss).item() == pytest.approx(expected)


def test_absolute_losses_have_gradients_of_equal_size_and_none_where_errors_are_zero():
    data = Data(z=torch.ones(3).long(), energy=torch.tensor([1.0]), forces=torch.zeros(3, 3), pos=torch.zeros(3, 3))
    for energy, slope in ((-4.0, -1.0), (1.0, 0.0), (1.5, 1.0)):
        energies = torch.tensor([energy], requires_grad=True)
        forces = torch.tensor([[0.0, 0, 0], [3.0, 0, 4.0], [0, 3e-4, 4e-4]], requires_grad=True)
        prediction = Prediction(energies, forces, None, torch.zeros(3))
        energy_forces_loss(prediction, data, 6.0, loss="absolute").backward()
        assert energies.grad.item() == slope
        torch.testing.assert_close(forces.grad, torch.tensor([[0.0, 0, 0], [1.2, 0, 1.6], [0, 1.2, 1.6]]))


def test_loss_without_forces_asks_for_none():
    data = Data(z=torch.ones(1).long(), energy=torch.tensor([1.0]))
    assert energy_forces_loss(Prediction(torch.tensor([3.0]), None, None, torch.zeros(1)), data, 0.0) == 4


def test_decay_is_continuous():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
    schedule = ContinuousDecay(optimizer, 0.96, 100)
    for step in range(1, 251):
        optimizer.step()
        schedule.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(2e-3 * 0.96 ** (step / 100), rel=1e-12)


def test_warm_up_and_cosine():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
    schedule = CosineDecay(optimizer, 100, final=0.1, warm_up=9)
    rates = [schedule.get_last_lr()[0]]
    for _ in range(150):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert rates[0] == pytest.approx(2e-3 / 10, rel=1e-3) and max(rates) == pytest.approx(rates[9], rel=0.02)
    assert rates[50] == pytest.approx(2e-3 * 0.55) and rates[100] == rates[150] == pytest.approx(2e-4)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
    assert ContinuousDecay(optimizer, 0.5, 10, warm_up=3).get_last_lr()[0] == pytest.approx(2e-3 / 4)


def test_the_estimate_of_memory_is_near_what_was_measured():
    rows = json.loads(Path("experiments/results/bench-cpu.json").read_text())["rows"]
    for row in rows:
        work = WORKS[row["number"]]
        if work.train:
            model = pygschnet.preset(work.preset)
            data = graph_of(work, model.cutoff)
            weights = 4 * PER_WEIGHT * sum(p.numel() for p in model.parameters()) / 1e6
            found = training_megabytes(model, float(len(data.z)), data.edge_index.shape[1] / 2) - weights
            assert 0.6 < found / row["ours_peak_mb"] < 1.3, work.name


def test_memory_does_not_grow():
    """1,000 steps with validations and checkpoints; from the 200th on."""
    command = [sys.executable, "-m", "experiments.checks.memory", "--steps", "1000"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    assert json.loads(output.splitlines()[-1])["growth"] < 0.05


def test_compiled_energies_and_forces():
    """torch.compile reaches energies; forces are differentiated outside of it."""
    script = """
import torch
from tests.structures import ethanol, graph, randomise
from pygschnet import AtomisticModel, Atomwise, SchNet
settings = dict(gaussians=25, gaussian_stop=5.0, gamma=None, cutoff=5.0, cutoff_form="cosine")
model = randomise(AtomisticModel(SchNet(16, 16, 2, **settings), Atomwise(16)))
data = graph(ethanol(), model)
compiled = torch.compile(model, backend="aot_eager")
for forces in (False, True):
    gradients = []
    for each in (model, compiled):
        model.zero_grad()
        prediction = each(data, forces=forces)
        (prediction.energy.sum() + (prediction.forces.square().sum() if forces else 0)).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5 * float(gradients[0].abs().max()))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=300)


def test_average_follows_the_formula(tmp_path):
    module, decay = small(ema_decay=0.9, rho=0.0), 0.9
    expected = [p.detach().clone() for p in module.model.parameters()]

    class Record(pl.Callback):
        def on_train_batch_end(self, trainer, module, *args):
            for average, parameter in zip(expected, module.model.parameters(), strict=True):
                average.mul_(decay).add_(parameter.detach(), alpha=1 - decay)

    train, _ = loaders(labelled(12))
    trainer(tmp_path, max_steps=5, callbacks=[Record()]).fit(module, train)
    for average, reference in zip(module.averaged.parameters(), expected, strict=True):
        torch.testing.assert_close(average, reference, rtol=1e-5, atol=1e-7)
        assert not average.requires_grad
    assert any(
        not torch.equal(a, b) for a, b in zip(module.averaged.parameters(), module.model.parameters(), strict=True)
    )


def test_a_second_fit_goes_on_averaging(tmp_path):
    module, (train, _) = small(rho=0.0), loaders(labelled(8))
    trainer(tmp_path, max_steps=4).fit(module, train)
    before = [average.clone() for average in module.averaged.parameters()]
    trainer(tmp_path, max_steps=2).fit(module, train)  # a new Trainer counts from zero
    assert any(not torch.equal(a, b) for a, b in zip(before, module.averaged.parameters(), strict=True))


def test_evaluation_uses_the_average(tmp_path):
    module, frames = small(), labelled(6)
    module.model.head.fit(*concatenate(frames))
    randomise(module.averaged, seed=3)
    batch = Batch.from_data_list(frames)
    metrics = trainer(tmp_path).test(module, DataLoader(frames, 4), verbose=False)[0]
    for stage, model in (("test", module.averaged), ("test_without_ema", module.model)):
        prediction = model(batch)
        energy_error, force_error = (
            (prediction.energy - batch.energy).detach(),
            (prediction.forces - batch.forces).detach(),
        )
        assert metrics[f"{stage}/energy_mae"] == pytest.approx(energy_error.abs().mean().item())
        assert metrics[f"{stage}/energy_rmse"] == pytest.approx(energy_error.square().mean().sqrt().item())
        assert metrics[f"{stage}/forces_mae"] == pytest.approx(force_error.abs().mean().item())
        assert metrics[f"{stage}/forces_rmse"] == pytest.approx(force_error.square().mean().sqrt().item())
    assert metrics["test/forces_mae"] != pytest.approx(metrics["test_without_ema/forces_mae"])


def test_statistics_come_from_the_training_data(tmp_path):
    frames = labelled(12)
    frames[0].energy = frames[0].energy + 1e6  # a validation molecule
    train, val = loaders(frames)
    module = small()
    trainer(tmp_path, max_steps=1).fit(module, train, val)
    energies = torch.cat([frame.energy for frame in frames[4:]]) / 9
    for model in (module.model, module.averaged):
        assert model.head.mu.item() == pytest.approx(energies.mean().item())
        assert model.head.sigma.item() == pytest.approx(energies.std(correction=0).item())
        assert model.head.elements.nonzero().flatten().tolist() == [1, 6, 8]


def test_a_fitted_head_is_left_alone(tmp_path):
    module, frames = small(), labelled(8)
    module.model.head.fit(*concatenate(frames))
    module.model.head.mu.fill_(7.0)
    trainer(tmp_path, max_steps=1).fit(module, loaders(frames)[0])
    assert module.model.head.mu.item() == 7.0


@pytest.mark.parametrize("rho", [0.0, 100.0])
@pytest.mark.parametrize("loss", ["squared", "absolute"])
def test_it_can_learn_ten_frames_by_heart(rho, loss, tmp_path):
    schedule = {"squared": constant, "absolute": lambda o: CosineDecay(o, 600)}[loss]  # whose gradients do not shrink
    module = small(rho=rho, loss=loss, optimizer=lambda p: torch.optim.Adam(p, 5e-3), scheduler=schedule)
    frames = labelled(10)
    batch = Batch.from_data_list(frames)
    run = trainer(tmp_path, max_steps=600)
    module.model.head.fit(*concatenate(frames))
    before = energy_forces_loss(module.model(batch), batch, rho).item()
    run.fit(module, DataLoader(frames, 10))
    after = energy_forces_loss(module.model(batch), batch, rho).item()
    assert after < before / 1000


def constant(optimizer):
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def test_default_trainer(tmp_path, monkeypatch):
    """Fit, validate, test and predict under a Trainer that a user has not configured: inference mode is on there."""
    monkeypatch.chdir(tmp_path)
    frames, module = labelled(8), small()
    train, val = loaders(frames)
    run = pl.Trainer(max_steps=2, accelerator="cpu", logger=False, log_every_n_steps=1)
    run.fit(module, train, val)
    assert run.validate(module, val)[0]["val/forces_mae"] > 0
    assert run.test(module, val)[0]["test/forces_mae"] > 0
    predictions = run.predict(module, val)
    torch.testing.assert_close(predictions[0].forces, module.averaged(next(iter(val))).forces.detach())


def test_plateau_schedule(tmp_path):
    module = small(scheduler=lambda o: ReduceLROnPlateau(o, "val/loss", patience=0, threshold=10.0, factor=0.5))
    train, val = loaders(labelled(8))
    trainer(tmp_path, max_epochs=4).fit(module, train, val)
    assert module.optimizers().param_groups[0]["lr"] < 1e-3


def test_a_training_that_goes_astray_says_so(tmp_path):
    module = small(ema_decay=0.0, scheduler=lambda o: LambdaLR(o, lambda step: 1.0 if step < 12 else 1e3))
    train, val = loaders(labelled(8))
    run = trainer(tmp_path, max_epochs=40, check_val_every_n_epoch=4, callbacks=[RunReport(tmp_path)])
    with warnings.catch_warnings(record=True) as caught:  # of its filters, too
        warnings.simplefilter("always")
        run.fit(module, train, val)
    said = [str(warning.message) for warning in caught if "validation loss" in str(warning.message)]
    assert "and was " in said[0] and "after step 12: the training has diverged" in said[0]


def test_when_a_training_is_astray(tmp_path):
    report, said = RunReport(tmp_path), []
    for step, loss in enumerate((8.0, 5.0, 49.0, 51.0, 60.0, 4.0, 40.0, math.nan, math.nan, 3.0), start=1):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            report._watch(loss, step)
        said += [step] * len(caught)
    assert said == [4, 8] and report.best == (3.0, 10)
    again = RunReport(tmp_path)
    again.load_state_dict(report.state_dict())
    with pytest.warns(UserWarning, match="after step 11, and was 3 after step 10"):
        again._watch(31.0, 11)
    with pytest.warns(UserWarning, match="the validation loss is nan after step 7: "):
        RunReport(tmp_path)._watch(math.nan, 7)


def test_gradient_clipping_and_accumulation(tmp_path):
    module, weights = small(ema_decay=0.9), {}
    initial = [parameter.detach().clone() for parameter in module.model.parameters()]

    class Record(pl.Callback):
        def on_train_batch_end(self, trainer, module, *args):
            weights[trainer.global_step] = [parameter.detach().clone() for parameter in module.model.parameters()]

    train, val = loaders(labelled(12))
    run = trainer(tmp_path, max_epochs=2, gradient_clip_val=1e-3, accumulate_grad_batches=2, callbacks=[Record()])
    run.fit(module, train, val)
    assert run.global_step == 2
    for average, start, one, two in zip(module.averaged.parameters(), initial, weights[1], weights[2], strict=True):
        expected = 0.9 * (0.9 * start + 0.1 * one) + 0.1 * two  # four batches, but two steps, so two updates
        torch.testing.assert_close(average, expected, rtol=1e-6, atol=1e-7)


def with_properties(frames):
    for number, frame in enumerate(frames):
        frame.gap = torch.tensor([2.0 + 0.5 * number]).double()
        frame.mu = torch.tensor([0.1 * number**2]).double()
    return frames


def heads():
    return {"gap": Atomwise(16, aggregation="mean"), "mu": Atomwise(16)}


def test_several_targets_with_weights(tmp_path):
    frames = with_properties(labelled(12))
    module = small(rho=0.0, properties=heads(), property_weights={"mu": 0.25}, energy_weight=0.5)
    train, val = loaders(frames)
    run = trainer(tmp_path, max_steps=2)
    run.fit(module, train, val)
    labels = {name: torch.cat([frame[name] for frame in frames[4:]]) for name in ("gap", "mu")}
    for name, per_atom in (("gap", 1), ("mu", 9)):
        head = module.model.properties[name]
        assert head.mu.item() == pytest.approx(labels[name].mean().item() / per_atom)
    batch = Batch.from_data_list(frames)
    prediction = module.model(batch, forces=False)
    expected = 0.5 * (prediction.energy - batch.energy) ** 2
    for name, weight in (("gap", 1.0), ("mu", 0.25)):
        deviation = labels[name].std(correction=0)
        expected = expected + weight * ((prediction.properties[name] - batch[name]) / deviation) ** 2
    torch.testing.assert_close(module.losses(prediction, batch), expected)
    metrics = run.test(module, val, verbose=False)[0]
    prediction = module.averaged(Batch.from_data_list(frames[:4]))
    for name in ("gap", "mu"):
        error = prediction.properties[name].detach() - torch.cat([frame[name] for frame in frames[:4]])
        assert metrics[f"test/{name}_mae"] == pytest.approx(error.abs().mean().item())
    with torch.no_grad():  # and without gradients, as prediction does
        again = module.averaged.eval()(Batch.from_data_list(frames[:4]))
    assert not again.properties["mu"].requires_grad
    torch.testing.assert_close(again.properties, {n: v.detach() for n, v in prediction.properties.items()})


def test_properties_can_be_learnt_without_energies(tmp_path):
    module = small(rho=0.0, energy_weight=0.0, properties=heads(), optimizer=lambda p: torch.optim.Adam(p, 5e-3))
    frames = with_properties(labelled(10))
    trainer(tmp_path, max_steps=400).fit(module, DataLoader(frames, 10))
    prediction = module.model(Batch.from_data_list(frames), forces=False)
    for name in ("gap", "mu"):
        label = torch.cat([frame[name] for frame in frames])
        assert (prediction.properties[name] - label).square().mean() < 0.05 * label.var()


def test_properties_that_the_data_lack(tmp_path):
    with pytest.raises(InputError, match="the data have no gap, mu; they have .*energy, forces"):
        trainer(tmp_path, max_steps=1).fit(small(rho=0.0, properties=heads()), loaders(labelled(8))[0])
    with pytest.raises(InputError, match="property_weights has alpha, for which there is no head"):
        small(properties=heads(), property_weights={"alpha": 1.0})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_training_on_a_gpu(tmp_path):
    module = small()
    train, val = loaders(labelled(8))
    run = trainer(tmp_path, max_steps=2, accelerator="cuda", devices=1)
    run.fit(module, train, val)
    assert run.test(module, val, verbose=False)[0]["test/forces_mae"] > 0


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    store, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    store.save_checkpoint({"step": 1}, path)

    def full(self, content):
        open(self, "wb").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        store.save_checkpoint({"step": 2}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(path, weights_only=True) == {"step": 1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small(rho=-1.0), "must not be negative, got -1.0"),
        (lambda: small(ema_decay=1.0), "from 0 to below 1"),
    ],
)
def test_impossible_settings(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_missing_forces(tmp_path):
    with pytest.raises(InputError, match="rho = 100.0 Å² trains on forces, but the data have none: set rho to 0"):
        trainer(tmp_path, max_steps=1).fit(small(), loaders(labelled(8, forces=False))[0])
    trainer(tmp_path, max_steps=1).fit(small(rho=0.0), loaders(labelled(8, forces=False))[0])


def test_edges_that_are_too_short(tmp_path):
    frames = [RadiusGraph(2.0)(frame) for frame in labelled(8)]
    with pytest.raises(InputError, match="edges up to 2.0 Å, the model needs those up to inf"):
        trainer(tmp_path, max_steps=1).fit(small(), loaders(frames)[0])


def test_a_model_that_has_not_seen_the_element(tmp_path):
    frames, module = labelled(8), small()
    module.model.head.fit(torch.tensor([1, 6]), torch.tensor([0, 1]), torch.tensor([-1.0, -2.0]))
    module.averaged.load_state_dict(module.model.state_dict())
    with pytest.raises(InputError, match="not been trained on O"):
        trainer(tmp_path, max_steps=1).fit(module, loaders(frames)[0])


@pytest.mark.parametrize(("loss", "unit"), [("squared", "eV²"), ("absolute", "eV")])
def test_learning_curves_have_the_unit_of_the_loss(loss, unit, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "pygschnet.training.report.plot_learning_curves", lambda curves, units, path: drawn.update(units)
    )
    (tmp_path / "logs" / "version_0").mkdir(parents=True)
    (tmp_path / "logs" / "version_0" / "metrics.csv").write_text("step,train/loss,val/energy_mae\n1,0.5,\n2,,0.25\n")
    report = RunReport(tmp_path)
    report.setup(trainer(tmp_path, max_steps=1), small(loss=loss), "fit")
    report.draw_learning_curves()
    assert drawn == {"training loss": unit, "validation energy MAE": "eV"}
