"""The LightningModule: the loss of the paper, averaged weights, errors with units."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torch_geometric.data import Data
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric
from tqdm import tqdm

from pygschnet.errors import InputError
from pygschnet.graph import molecule_index
from pygschnet.heads import EnergyHead, Head
from pygschnet.heads.moments import spread
from pygschnet.model import AtomisticModel, Prediction
from pygschnet.ranks import rank_and_number, sum_over_ranks
from pygschnet.representations import Representation
from pygschnet.training.schedules import ContinuousDecay

Loss = Literal["squared", "absolute"]


def molecule_losses(
    prediction: Prediction, data: Data, rho: float, energy_weight: float = 1.0, loss: Loss = "squared"
) -> Float[Tensor, "molecules"]:
    """ℓ = w ‖E − Ê‖² + (ρ/n) Σ_i ‖F_i − F̂_i‖² of every molecule, or the same without squares.

    Args:
        prediction: of the model.
        data: with the labels `energy` and, for ρ > 0, `forces`.
        rho: ρ in Å², without squares in Å; 0 leaves the forces out.
        energy_weight: w; 0 trains on forces only.
        loss: "squared", in eV²; or "absolute", ℓ = w |E − Ê| + (ρ/n) Σ_i ‖F_i − F̂_i‖ in eV, which weighs large
            errors less.

    Source: arXiv:1706.08566, Eq. 5; norms of force errors without squares are the loss "l2mae" of fairchem.
    """
    energies = prediction.energy - data.energy
    losses = energy_weight * (energies.square() if loss == "squared" else energies.abs())
    if rho > 0:
        batch, molecules = molecule_index(data)
        forces = prediction.forces - data.forces
        errors = forces.square().sum(-1) if loss == "squared" else torch.linalg.vector_norm(forces, dim=-1)
        atoms = torch.bincount(batch, minlength=molecules)
        losses = losses + rho * errors.new_zeros(molecules).index_add(0, batch, errors) / atoms
    return losses


def energy_forces_loss(
    prediction: Prediction, data: Data, rho: float, energy_weight: float = 1.0, loss: Loss = "squared"
) -> Float[Tensor, ""]:
    """The mean of `molecule_losses` over the molecules."""
    return molecule_losses(prediction, data, rho, energy_weight, loss).mean()


class AtomisticModule(LightningModule):
    """Trains a representation and a head on energies, or on energies and forces.

    Two sets of weights are kept: those that are trained (`model`) and their exponential moving average
    (`averaged`), which is validated, tested, used for prediction and saved. Both are in every checkpoint.

    Args:
        representation: graph to features, for instance SchNet.
        head: features to energies, for instance Atomwise.
        rho: weight ρ of the forces in Eq. 5 of arXiv:1706.08566, in Å²; 0 trains on energies only.
        optimizer: by default Adam with a learning rate of 0.001.
        scheduler: of the learning rate, by default the paper's decay; stepped after every optimiser step,
            ReduceLROnPlateau after every validation.
        ema_decay: of the moving average, per step; 0 takes the trained weights themselves.
        energy_weight: weight of the energies; 0 trains on forces only.
        properties: heads of other properties, by the names that they have in the data: {gap: {class_path: Atomwise}}.
        property_weights: weights of their squared errors, measured in standard deviations of the training data (of
            vectors the root mean square of their components, of tensors that without the mean of a third of their
            traces), against the energies' in eV²; 1 where none is given.
        loss: "squared" errors of energies and forces, as in the paper, or "absolute" ones, with ρ in Å.
    """

    property_scales: Float[Tensor, "properties"]

    def __init__(
        self,
        representation: Representation,
        head: EnergyHead,
        rho: float = 100.0,
        optimizer: OptimizerCallable = torch.optim.Adam,
        scheduler: LRSchedulerCallable = ContinuousDecay,
        ema_decay: float = 0.99,
        energy_weight: float = 1.0,
        properties: dict[str, Head] | None = None,
        property_weights: dict[str, float] | None = None,
        loss: Loss = "squared",
    ):
        super().__init__()
        if rho < 0:
            raise InputError(f"rho, the weight of the forces in Å², must not be negative, got {rho}")
        if energy_weight < 0 or (rho == energy_weight == 0 and not properties):
            raise InputError(
                f"energy_weight must not be negative, nor 0 if rho is; got {energy_weight} and rho = {rho}"
            )
        if unknown := (property_weights or {}).keys() - (properties or {}).keys():
            raise InputError(f"property_weights has {', '.join(sorted(unknown))}, for which there is no head")
        if not 0 <= ema_decay < 1:
            raise InputError(f"ema_decay must be from 0 to below 1, got {ema_decay}")
        self.model = AtomisticModel(representation, head, properties)
        self.property_weights = {name: (property_weights or {}).get(name, 1.0) for name in properties or {}}
        # standard deviations of the properties in the training data
        self.register_buffer("property_scales", torch.ones(len(self.property_weights), dtype=torch.float64))
        self.averaged = copy.deepcopy(self.model).requires_grad_(False)
        self.rho, self.energy_weight, self.loss, self.ema_decay = rho, energy_weight, loss, ema_decay
        self.optimizer, self.scheduler = optimizer, scheduler
        self._average: Callable[..., None] = get_ema_multi_avg_fn(ema_decay)
        stages = ("val", "test", "test_without_ema")
        self.errors = nn.ModuleDict({stage: Errors(self.property_weights) for stage in stages})

    def on_fit_start(self) -> None:
        """Take scale and shift from the training data, unless they are there already."""
        if not self.trainable and self.trainer.world_size > 1:
            raise InputError("this model has nothing to train by descent: fit it in one process, --trainer.devices 1")
        self.trainer.fit_loop.setup_data()
        loader: Any = self.trainer.train_dataloader
        first = loader.dataset[0]
        if self.rho > 0 and "forces" not in first:
            raise InputError(f"rho = {self.rho} Å² trains on forces, but the data have none: set rho to 0")
        if missing := [name for name in self.property_weights if name not in first]:
            raise InputError(f"the data have no {', '.join(missing)}; they have {', '.join(sorted(first.keys()))}")
        if not self.model.representation.fitted:
            self.trainer.fit_loop.epoch_loop.val_loop.setup_data()
            validation: Any = self.trainer.val_dataloaders
            self.model.representation.fit(_everything(loader), _everything(validation))
            self.averaged.load_state_dict(self.model.state_dict())
        if not all(head.fitted for head in (self.model.head, *self.model.properties.values())):
            self._fit_heads(loader)
        self.averaged.check(first.cpu())

    def _fit_heads(self, loader: DataLoader) -> None:
        progress = tqdm(_everything(loader), "labels of the training data", delay=1, leave=False)
        isolated = self.trainer.datamodule.reference_energies if self.model.head.references == "data" else None
        z, batch, energy, *labels = concatenate(map(self._note_range, progress), list(self.property_weights))
        if not self.model.head.fitted:
            self.model.head.fit(z, batch, energy, isolated)
        for number, (head, values) in enumerate(zip(self.model.properties.values(), labels, strict=True)):
            label = head.label(values)
            if not head.fitted:
                head.fit(z, batch, label)
            if (deviation := spread(label)) > 0:
                self.property_scales[number] = deviation
        self.averaged.load_state_dict(self.model.state_dict())

    def _note_range(self, data: Data) -> Data:
        self.model.extend_range(data)
        return data

    def losses(self, prediction: Prediction, data: Data) -> Float[Tensor, "molecules"]:
        """The loss of every molecule: `molecule_losses`, and the squared errors of the other properties."""
        losses = molecule_losses(prediction, data, self.rho, self.energy_weight, self.loss)
        labels = self.model.labels(data)
        for (name, weight), scale in zip(self.property_weights.items(), self.property_scales, strict=True):
            squares = ((prediction.properties[name] - labels[name]) / scale).square()
            losses = losses + weight * squares.unsqueeze(-1).flatten(1).sum(1)
        return losses

    @property
    def trainable(self) -> bool:
        """Whether there is anything to train by descent; kernel models and baselines are done once they are fitted."""
        return any(parameter.requires_grad for parameter in self.model.parameters())

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        """The loss of a batch, scaled so that the mean over all processes is that over all their molecules.

        DDP averages gradients over the processes, however many molecules each of them has; what comes out is the
        gradient that one process would find for all molecules together.
        """
        if not self.trainable:
            self.trainer.should_stop = True
            return torch.zeros((), requires_grad=True)
        losses = self.losses(self.model(batch, forces=self.rho > 0), batch)
        molecules, ranks = losses.new_tensor(float(len(losses))), rank_and_number()[1]
        loss = losses.sum() * ranks / sum_over_ranks(molecules)
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # when Lightning writes its logs
            self.log("train/loss", loss.detach(), batch_size=1, prog_bar=True, sync_dist=ranks > 1)
            self.log("train/learning_rate", self.optimizers().param_groups[0]["lr"], batch_size=1)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and let the averaged weights follow."""
        super().optimizer_step(*args, **kwargs)
        self.update_average()

    def update_average(self) -> None:
        """Move the averaged weights towards the trained ones."""
        if weights := list(self.model.parameters()):
            with torch.no_grad():
                self._average(list(self.averaged.parameters()), weights, 0)

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        """Errors of the averaged weights."""
        self._evaluate(self.averaged, batch, "val")

    def test_step(self, batch: Data, batch_idx: int) -> Prediction:
        """Errors of the averaged and of the trained weights; returns the prediction of the averaged ones."""
        prediction = self._evaluate(self.averaged, batch, "test")
        if self.trainable:
            self._evaluate(self.model, batch, "test_without_ema")
        return prediction

    def predict_step(self, batch: Data, batch_idx: int) -> Prediction:
        """The prediction of the averaged weights."""
        return self.averaged(batch)

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimiser and its schedule."""
        something = [nn.Parameter(torch.zeros(()))]  # without which there is no optimiser
        optimizer = self.optimizer(list(self.model.parameters()) or something)
        scheduler = self.scheduler(optimizer)
        schedule: dict[str, Any] = {"scheduler": scheduler, "interval": "step"}
        if isinstance(scheduler, ReduceLROnPlateau):
            by_epoch = self.trainer.check_val_every_n_epoch is not None
            schedule["monitor"] = scheduler.monitor
            schedule["interval"] = "epoch" if by_epoch else "step"
            schedule["frequency"] = self.trainer.check_val_every_n_epoch or self.trainer.val_check_interval
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _evaluate(self, model: AtomisticModel, batch: Data, stage: str) -> Prediction:
        prediction = model(batch, forces="forces" in batch)
        errors = self.errors[stage]
        errors.add(prediction, model.labels(batch), self.losses(prediction, batch))
        for name, metric in errors.items():
            if metric.update_called:
                self.log(f"{stage}/{name}", metric, batch_size=1, prog_bar=name == "forces_mae")
        return prediction


def _everything(loader: DataLoader) -> DataLoader:
    """All molecules of a loader, in the order of the data."""
    return DataLoader(loader.dataset, batch_size=1024, collate_fn=loader.collate_fn)


class Mean(Metric):
    """The mean of all numbers of all processes, in float64, which torchmetrics' own is not."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, numbers: Float[Tensor, "numbers"]) -> None:
        """Add numbers."""
        self.total += numbers.double().sum()
        self.count += len(numbers)

    def compute(self) -> Tensor:
        """Their mean."""
        return self.total / self.count


class Errors(nn.ModuleDict):
    """MAE and RMSE of energies (eV, per molecule), forces (eV/Å, per component) and properties, and the loss."""

    def __init__(self, properties: Iterable[str] = ()) -> None:
        super().__init__({"loss": Mean()})
        self.quantities = ("energy", "forces", *properties)
        for quantity in self.quantities:
            self[f"{quantity}_mae"] = MeanAbsoluteError()
            self[f"{quantity}_rmse"] = MeanSquaredError(squared=False)
        for metric in self.values():
            metric.set_dtype(torch.float64)

    def add(self, prediction: Prediction, labels: dict[str, Tensor], losses: Float[Tensor, "molecules"]) -> None:
        """Add a batch, which may be empty, and lack some labels."""
        self["loss"].update(losses)
        predicted = prediction._asdict() | prediction.properties
        for quantity in self.quantities:
            if quantity in labels:
                for measure in ("mae", "rmse"):
                    self[f"{quantity}_{measure}"].update(predicted[quantity].flatten(), labels[quantity].flatten())


def concatenate(batches: Iterable[Data], properties: Sequence[str] = ()) -> tuple[Tensor, ...]:
    """Atomic numbers, molecule of each atom, energies and properties of all molecules of all batches."""
    z, sizes = [], []
    labels: list[list[Tensor]] = [[] for _ in ("energy", *properties)]
    for data in batches:
        batch, molecules = molecule_index(data)
        z.append(data.z.cpu())
        sizes.append(torch.bincount(batch, minlength=molecules).cpu())
        for values, name in zip(labels, ("energy", *properties), strict=True):
            values.append(data[name].cpu())
    atoms = torch.cat(sizes)
    molecule = torch.arange(len(atoms)).repeat_interleave(atoms)
    return torch.cat(z), molecule, *(torch.cat(values) for values in labels)
