"""SchNetPack's network trained as the recipe trains ours: for the time to the errors of the paper.

    PYTHONPATH=. .bench/bin/python experiments/benchmarks/peer_training.py FOLDER/ethanol.npz --steps 20000

It starts at weights as ours do, and has the same batches, loss, optimiser, schedule and averages of weights. The time
is that of the steps alone, on one thread, without validation, logs and checkpoints, which the time of ours includes.
"""

import argparse
import time
from pathlib import Path
from pkgutil import resolve_name

import pytorch_lightning as pl
import torch
import yaml
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import pygschnet
from experiments.benchmarks.contender import schnetpack_inputs, schnetpack_model
from experiments.runs import RESULTS, head_commit, write_row
from pygschnet import Prediction
from pygschnet.datasets import MD17
from pygschnet.training import energy_forces_loss
from pygschnet.units import unit_factor
from tests.patterns import schnetpack_names


def start() -> torch.nn.Module:
    """With the first weights of the preset."""
    ours = pygschnet.preset("default")
    model, weights = schnetpack_model(ours.representation), dict(ours.named_parameters())
    with torch.no_grad():
        names = schnetpack_names(ours.representation.interactions)
        for name, parameter in model.named_parameters():
            parameter[: len(weights[names[name]])] = weights[names[name]]
    return model


def predict(model, data, training: bool):
    pos = data.pos.float().requires_grad_()
    energy = model(schnetpack_inputs(data, pos, data.batch))["energy"]
    return energy, -torch.autograd.grad(energy.sum(), pos, create_graph=training)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="of ethanol")
    parser.add_argument("--steps", type=int, default=20_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    commit, recipe = head_commit(), yaml.safe_load(Path("experiments/md17/default.yaml").read_text())
    settings, seed = recipe["model"], recipe["seed_everything"]
    pl.seed_everything(seed)
    data = MD17(**recipe["data"]["init_args"] | {"path": str(options.path)})
    data.prepare_data()
    data.setup("fit")
    model = start()
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings["ema_decay"]))
    optimizer = resolve_name(settings["optimizer"]["class_path"])(
        model.parameters(), **settings["optimizer"]["init_args"]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=options.steps)
    offset = torch.cat([batch.energy for batch in data.train_dataloader()]).mean()
    batches = data.train_dataloader()  # one for all epochs: each new one would begin with the order of the first
    kcal, step, seconds, every = 1 / unit_factor("kcal/mol"), 0, 0.0, recipe["trainer"]["val_check_interval"]
    found: dict[str, list] = {"step": [], "energy_mae": [], "forces_mae": []}
    while step < options.steps:
        for batch in batches:
            begin = time.process_time()
            energy, forces = predict(model, batch, training=True)
            prediction = Prediction(energy + offset, forces, None, batch.z)
            loss = energy_forces_loss(prediction, batch, settings["rho"], loss=settings["loss"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            averaged.update_parameters(model)
            seconds, step = seconds + time.process_time() - begin, step + 1
            if step % every == 0 or step == options.steps:
                errors: tuple[list, list] = ([], [])
                for frames in data.val_dataloader():
                    energy, forces = predict(averaged, frames, training=False)
                    errors[0].append((energy.detach() + offset - frames.energy).abs())
                    errors[1].append((forces - frames.forces).abs().flatten())
                mae = [round(torch.cat(values).mean().item() * kcal, 4) for values in errors]
                for name, value in zip(found, (step, *mae), strict=True):
                    found[name].append(value)
                print(step, *mae, f"{seconds:.0f} s", flush=True)
            if step == options.steps:
                break
    key = {"molecule": options.path.stem, "labels": "md17", "recipe": f"default, {options.steps:,} steps, SchNetPack"}
    key |= {"split": "01", "seed": seed}
    row = {**key, **found, "seconds_per_step": round(seconds / options.steps, 6), "commit": commit}
    write_row(RESULTS / "curves.json", row, tuple(key))


if __name__ == "__main__":
    main()
