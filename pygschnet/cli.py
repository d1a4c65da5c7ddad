"""The command line: Lightning's, with presets, one cutoff, and a run folder."""

import argparse
import contextlib
import logging
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import DefaultHelpFormatter
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import pygschnet.datasets  # noqa: F401, so that its classes can be named without their module
from pygschnet import data_cli, model_cli
from pygschnet.errors import InputError
from pygschnet.files import write_npz
from pygschnet.ranks import collect, interleave, lost_contact
from pygschnet.saving import SYSTEMS, VARIANTS, preset_file, save
from pygschnet.training import AtomisticModule, Checkpoints, RunReport
from pygschnet.training.checkpoint import AtomicCheckpointIO, newest_good
from pygschnet.training.memory import ADVICE, is_out_of_memory
from pygschnet.training.progress import Progress
from pygschnet.training.report import device_name
from pygschnet.training.resume import Stopped
from pygschnet.training.run import check_writable, default_run_dir, parallel_settings, refuse_changes

DESCRIPTION = f"""\
Train, test and use SchNet, and the systems of its papers, for molecules and crystals.

A run is described by YAML files and flags; later ones override earlier ones, and --print_config shows the result.
Configurations at hand: of SchNet {", ".join(f"preset:{name}" for name in VARIANTS)};
of other systems and baselines, likewise, {", ".join(SYSTEMS)}.
Everything a run produces stands in its folder, --run_dir; fit ends with the errors on the test data.

  pygschnet fit -c preset:paper --data MD17 --data.path data/ethanol.npz --data.train 1000 --data.val 200
  pygschnet fit -c runs/ethanol/config.yaml --ckpt_path last      resume
  pygschnet test -c runs/ethanol/config.yaml                      test the best checkpoint again
  pygschnet predict -c runs/ethanol/config.yaml --data.path other.npz
  pygschnet data info data/ethanol.npz                            look at data; also convert, download
  pygschnet predict runs/ethanol/model.safetensors frames.xyz     also relax, md, evaluate, explain, convert, doctor …
"""

SUBCOMMANDS = {
    "fit": "Train a model, test it, and write model, errors and plots to the run folder.",
    "validate": "Compute the errors of a trained model on the validation data.",
    "test": "Compute the errors of a trained model on the test data.",
    "predict": "Write the predictions of a trained model for all molecules of a data set.",
}

NOISE = (
    ".*isinstance.treespec, LeafSpec.*",  # inside Lightning
    ".*does not have many workers.*",  # batches are gathered in microseconds
    ".*Checkpoint directory .* exists and is not empty.*",  # it is meant to be when a run is resumed
    ".*Grad strides do not match bucket view strides.*",  # of a matrix with one row
    ".*number of training batches .* is smaller than the logging interval.*",  # we count steps, not batches
)
"""Warnings that ask nothing of the user."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the line breaks of descriptions."""


class CLI(LightningCLI):
    """`LightningCLI` with presets, a run folder, default callbacks, and the cutoff taken from the model."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run_dir", type=str, default=default_run_dir(), help="Folder of the run.")
        parser.add_argument(
            "--allow_changes", type=bool, default=False, help="Resume although settings have changed that matter."
        )
        parser.add_argument(
            "--checkpoint_minutes", type=float, default=30.0, help="The longest time without a checkpoint, in minutes."
        )
        parser.add_argument(
            "--timeout_minutes",
            type=float,
            default=30.0,
            help="How long the processes of a parallel training wait for each other, in minutes.",
        )
        parser.add_argument(
            "--matmul_precision",
            type=Literal["highest", "high", "medium"],
            default="highest",
            help="Of float32 products on a GPU: float32, TF32 or bfloat16. Distances and sums of energies stay exact.",
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.filename": "best",
                "checkpoint.monitor": "val/loss",
                "checkpoint.save_on_train_epoch_end": False,  # but after every validation
                "checkpoint.enable_version_counter": False,
            }
        )
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.set_defaults(
            {
                "early_stopping.monitor": "val/loss",
                "early_stopping.patience": 1000,
                "early_stopping.check_on_train_epoch_end": False,  # but after every validation
            }
        )
        parser.link_arguments("run_dir", "trainer.default_root_dir")
        parser.link_arguments("run_dir", "checkpoint.dirpath", lambda run_dir: str(Path(run_dir) / "checkpoints"))
        parser.link_arguments(
            "model", "data.init_args.cutoff", lambda module: module.model.cutoff, apply_on="instantiate"
        )

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        super().setup_parser(*args, **kwargs)
        for action in self.parser._subparsers._group_actions[0]._choices_actions:  # argparse offers no other way
            action.help = SUBCOMMANDS[action.dest]  # instead of the docstrings of Lightning's Trainer
        for name, parser in self._subcommand_parsers.items():
            parser.description = SUBCOMMANDS[name]

    def _parse_ckpt_path(self) -> None:
        """Read no settings from checkpoints: ours hold none, the configuration does."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        torch.set_float32_matmul_precision(self._get(self.config, "matmul_precision"))
        self.report = RunReport(self._get(self.config, "run_dir"))
        settings = self._get(self.config_init, "trainer")
        last = Checkpoints(self.report.run_dir, self._get(self.config, "checkpoint_minutes"))
        kwargs["callbacks"] = [*(settings["callbacks"] or []), self.report, last]
        kwargs |= parallel_settings(settings, self._get(self.config, "timeout_minutes"), self.report.run_dir)
        if settings["enable_progress_bar"] is not False:
            kwargs["callbacks"].append(Progress())
        if self.subcommand != "fit" or settings["logger"] is False:
            kwargs["logger"] = False
        else:  # a new version for every resumed part; a user's own, such as W&B's, besides
            logs, given = CSVLogger(self.report.run_dir, "logs"), settings["logger"]
            if given in (None, True):
                given = TensorBoardLogger(self.report.run_dir, "logs", logs.version)
            kwargs["logger"] = [logs, *(given if isinstance(given, list) else [given])]
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        run_dir, resume = self.report.run_dir, self.config_init["fit"]["ckpt_path"]
        if resume in ("last", "auto"):
            found = newest_good(run_dir / "checkpoints" / "last.ckpt")
            if found is None and resume == "last":
                raise InputError(f"{run_dir} holds no checkpoint to resume from")
            self.config_init["fit"]["ckpt_path"] = resume = None if found is None else str(found)
        elif (run_dir / "config.yaml").exists() and not resume:
            state = "a finished" if (run_dir / "metrics.json").exists() else "an interrupted"
            raise InputError(
                f"{run_dir} holds {state} run: choose another --run_dir, or go on training with --ckpt_path last"
            )
        if resume and (run_dir / "config.yaml").exists() and not self._get(self.config, "allow_changes"):
            now = self.parser.dump(self.config, skip_none=False, skip_link_targets=False)
            refuse_changes(run_dir / "config.yaml", yaml.safe_load(now)["fit"])
        check_writable(run_dir)
        if self.trainer.is_global_zero:
            begin = f"going on from {resume}" if resume else "training"
            print(f"{begin} on {device_name(self.trainer.strategy.root_device)}; the run folder is {run_dir}")

    def fit(self, **kwargs: Any) -> None:
        """Fit; what is refused before the first step leaves no folder behind."""
        try:
            self.trainer.fit(**kwargs)
        except InputError:
            if self.trainer.global_step == 0 and self.trainer.log_dir is not None:
                shutil.rmtree(self.trainer.log_dir, ignore_errors=True)
                for folder in (self.report.run_dir / "logs", self.report.run_dir):
                    with contextlib.suppress(OSError):  # holds something else
                        folder.rmdir()
            raise
        except Stopped as stopped:
            if self.trainer.is_global_zero:
                go_on = f"pygschnet fit -c {self.report.run_dir}/config.yaml --ckpt_path last goes on"
                saved = f"saved; {go_on}" if stopped.saved else "nothing new to save"
                print(f"stopped by a signal after step {stopped.step}: {saved}")
            raise
        except (RuntimeError, MemoryError) as error:
            if lost_contact(error):
                sys.exit(1)  # `Checkpoints` has said so
            if is_out_of_memory(error):
                raise InputError(ADVICE) from error
            raise

    def after_fit(self) -> None:
        savers = [saver for saver in self.trainer.checkpoint_callbacks if isinstance(saver, ModelCheckpoint)]
        best = next(saver.best_model_path for saver in savers if saver.monitor)
        if not best:  # the training has ended before the first validation
            self.trainer.save_checkpoint(best := str(self.report.run_dir / "checkpoints" / "best.ckpt"))
        self.model.load_state_dict(AtomicCheckpointIO().load_checkpoint(best)["state_dict"])
        self.trainer.validate(self.model, self.datamodule, verbose=False)
        self.trainer.test(self.model, self.datamodule, verbose=False)
        if self.trainer.is_global_zero:
            save(self.model.averaged, self.report.run_dir / "model.safetensors", self.report.record)
            print(f"model, metrics and plots are in {self.report.run_dir}")

    def before_validate(self) -> None:
        self._choose_checkpoint()
        self.config_init["validate"]["verbose"] = False  # the report prints a table of its own

    def before_test(self) -> None:
        self._choose_checkpoint()
        self.config_init["test"]["verbose"] = False

    def before_predict(self) -> None:
        self._choose_checkpoint()

    def predict(self, **kwargs: Any) -> None:
        """Predict, and write the predictions of all molecules to predictions.npz in the run folder."""
        of_this_rank = self.trainer.predict(**kwargs)
        counts = [batch.ptr.diff() for batch in self.datamodule.predict_dataloader()]
        atoms = torch.cat(interleave(collect(counts)))
        predictions = interleave(collect(of_this_rank or []))
        if not self.trainer.is_global_zero:
            return
        path = self.report.run_dir / "predictions.npz"
        arrays = {"atoms": atoms.numpy()}
        for name in ("energy", "forces", "atomic_energies", *predictions[0].properties):
            parts = [(prediction._asdict() | prediction.properties)[name] for prediction in predictions]
            if parts[0] is not None:
                arrays[name] = torch.cat(parts).cpu().numpy()
        write_npz(path, arrays)
        print(f"energies (eV), forces (eV/Å) and atomic energies (eV) of {len(atoms)} molecules are in {path}")

    def _choose_checkpoint(self) -> None:
        options = self.config_init[self.subcommand]
        best = self.report.run_dir / "checkpoints" / "best.ckpt"
        if options["ckpt_path"] is None:
            if not best.exists():
                raise InputError(f"there is no trained model {best}: give its run's config.yaml, or --ckpt_path FILE")
            options["ckpt_path"] = str(best)
        if not Path(options["ckpt_path"]).exists():
            raise InputError(f"there is no checkpoint {options['ckpt_path']}")


class SaveConfig(SaveConfigCallback):
    """Saves the resolved configuration once training starts: what fails before leaves nothing behind."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pass

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "config.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            config = self.config.clone()
            config.ckpt_path = None  # where a resumed run began is not how to use it
            self.parser.save(config, path, skip_none=False, overwrite=True)


def main() -> None:
    """Entry point of the command `pygschnet`."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.msg)
    try:
        if sys.argv[1:2] == ["data"]:
            return data_cli.main(sys.argv[2:])
        if model_cli.takes(sys.argv[1:]):
            return model_cli.main(*sys.argv[1:])
        sys.argv[1:] = [_expand_preset(argument) for argument in sys.argv[1:]]
        CLI(
            AtomisticModule,
            LightningDataModule,
            subclass_mode_data=True,
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            # float64 sums need CUDA or a CPU, so not whatever accelerator there is
            trainer_defaults={
                "accelerator": "cuda" if torch.cuda.is_available() else "cpu",
                "devices": 1,
                "inference_mode": False,
                "log_every_n_steps": 50,
            },
            auto_configure_optimizers=False,  # they belong to the model
            parser_kwargs={"description": DESCRIPTION, "formatter_class": HelpFormatter}
            | {
                name: {
                    "default_config_files": [str(preset_file("paper"))],
                    "usage": f"pygschnet {name} [-c preset:NAME | -c FILE.yaml ...] [--KEY VALUE ...]",
                }
                for name in SUBCOMMANDS
            },
        )
    except (InputError, OSError, MisconfigurationException, UnicodeDecodeError) as error:
        print(f"pygschnet: error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("pygschnet: interrupted", file=sys.stderr)
        sys.exit(130)


def _expand_preset(argument: str) -> str:
    head, marker, name = argument.partition("preset:")
    return head + str(preset_file(name)) if marker and head in ("", "-c", "-c=", "--config=") else argument
