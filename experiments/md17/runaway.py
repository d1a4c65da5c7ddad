"""Which Adam keeps a training from running away: one is continued from a checkpoint, with a larger learning rate.

    pygschnet fit -c preset:default -c experiments/md17/default.yaml -c experiments/md17/adam.yaml \\
        --data.path FOLDER/benzene.npz --trainer.max_steps 38000 \\
        --model.scheduler.init_args.T_max 150000 --trainer.gradient_clip_val 1000 \\
        --run_dir runs/md17/benzene-38000
    python -m experiments.md17.runaway FOLDER/benzene.npz runs/md17/benzene-38000/checkpoints/last.ckpt

Every row of experiments/results/runaway.json is 500 steps: with a β₂, with gradients clipped or not, from weights
that are those of the checkpoint or differ from them by a factor of 1 + 10⁻⁵ ξ, ξ of N(0, 1). Training frames alone.
"""

import argparse
import json
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from experiments.runs import RESULTS, fit, head_commit, write_row

KEY = ("beta2", "clip", "noise")
TRIED = [(0.999, 1000), (0.999, 300), (0.99, None), (0.98, None), (0.95, None)]


class Disturbed(Callback):
    """Changes a training that goes on, and writes down its losses.

    Args:
        out: file for the losses of all steps.
        times: learning rates that much larger.
        beta2: of Adam.
        noise: seed of the change of the weights; 0 for none.
    """

    def __init__(self, out: str, times: float, beta2: float, noise: int):
        self.out, self.times, self.beta2, self.noise = Path(out), times, beta2, noise
        self.losses: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the checkpoint has been read."""
        for group in trainer.optimizers[0].param_groups:
            group["lr"] *= self.times  # the schedule goes on from there: it multiplies
            group["betas"] = (group["betas"][0], self.beta2)
        if self.noise:
            torch.manual_seed(self.noise)
            with torch.no_grad():
                for weights in pl_module.model.parameters():
                    weights.mul_(1 + 1e-5 * torch.randn_like(weights))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Tensor], batch: object, batch_idx: int
    ) -> None:
        """After every step."""
        self.losses.append(float(outputs["loss"]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the last step."""
        self.out.write_text(json.dumps(self.losses))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="of the molecule")
    parser.add_argument("checkpoint", type=Path, help="of a training with the recipe")
    parser.add_argument("--times", type=float, default=2.5, help="larger learning rate")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--noises", type=int, default=2, help="trainings of each kind")
    parser.add_argument("--runs", type=Path, default=Path("runs/runaway"))
    options = parser.parse_args()
    commit = head_commit()
    begin = torch.load(options.checkpoint, weights_only=True)["global_step"]
    for noise in range(options.noises):
        for beta2, clip in TRIED:
            run = options.runs / f"{beta2}-{clip}-{noise}"
            losses = options.runs / f"{run.name}.json"
            arguments = ["-c", "preset:default", "-c", "experiments/md17/default.yaml"]
            arguments += ["-c", "experiments/md17/adam.yaml"]
            arguments += ["--data.path", str(options.path), "--ckpt_path", str(options.checkpoint)]
            arguments += ["--allow_changes", "true", "--trainer.max_steps", str(begin + options.steps)]
            arguments += ["--trainer.gradient_clip_val", str(clip or "null"), "--trainer.limit_test_batches", "0"]
            changed = {"out": str(losses), "times": options.times, "beta2": beta2, "noise": noise}
            disturbed = {"class_path": "experiments.md17.runaway.Disturbed", "init_args": changed}
            arguments += ["--trainer.callbacks", json.dumps([disturbed])]  # and not those of the recipe
            fit(arguments, run)
            found = torch.tensor(json.loads(losses.read_text()))
            row = {"beta2": beta2, "clip": clip or 0, "noise": noise, "from": begin, "steps": len(found)}
            median, largest = (float(f"{loss:.3g}") for loss in (found.median(), found.max()))
            row |= {"times": options.times, "median_loss": median, "largest_loss": largest, "commit": commit}
            write_row(RESULTS / "runaway.json", row, KEY)
            print(row, flush=True)


if __name__ == "__main__":
    main()
