"""A training and a test in one or several processes; writes the gradients of every step and the errors.

python -m tests.parallel_run DATA OUT PROCESSES [NODES]
"""

import json
import sys
import warnings
from datetime import timedelta

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy

from pygschnet import Atomwise, SchNet
from pygschnet.datasets import Files
from pygschnet.training import AtomisticModule, RunReport

LOSSES = {"energies": (0.0, 1.0), "forces": (10.0, 0.0), "both": (10.0, 1.0)}


class Gradients(pl.Callback):
    def __init__(self):
        self.steps = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.steps.append(torch.cat([parameter.grad.flatten() for parameter in module.model.parameters()]))


def run(path, out, processes, nodes, loss, precision):
    rho, weight = LOSSES[loss]
    torch.manual_seed(0)
    representation = SchNet(16, 16, 2, gaussians=25, gaussian_stop=5.0, gamma=None, cutoff=5.0, cutoff_form="cosine")
    module = AtomisticModule(
        representation,
        Atomwise(16),
        rho=rho,
        energy_weight=weight,
        optimizer=lambda p: torch.optim.SGD(p, 0.0),  # the same weights at every step
        scheduler=lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0),
    )
    data = Files([path], train=33, val=5, test=9, batch_size=8, eval_batch_size=2, cutoff=5.0, num_workers=0)
    gradients, report = Gradients(), RunReport(f"{out}-{loss}-{precision}")
    strategy = DDPStrategy(broadcast_buffers=False, timeout=timedelta(seconds=60)) if processes * nodes > 1 else "auto"
    trainer = pl.Trainer(
        default_root_dir=out,
        accelerator="cpu",
        devices=processes,
        num_nodes=nodes,
        strategy=strategy,
        precision=precision,
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
        callbacks=[gradients, report],
    )
    trainer.fit(module, data)
    metrics = dict(trainer.callback_metrics)
    trainer.test(module, data, verbose=False)
    numbers = {name: float(value) for name, value in (metrics | trainer.callback_metrics).items()}
    return {"gradients": torch.stack(gradients.steps), "metrics": json.dumps(numbers)}


def main(path, out, processes="1", nodes="1", only=None):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results = {}
    for loss in [only] if only else LOSSES:
        for precision in ("32-true", "64-true"):
            results[f"{loss} {precision}"] = run(path, out, int(processes), int(nodes), loss, precision)
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        torch.save(results, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
