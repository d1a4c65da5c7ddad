"""What a model file and a run's configuration hold."""

from pathlib import Path
from typing import Any

import yaml
from ase.data import chemical_symbols
from jsonargparse import ArgumentError, ArgumentParser

from pygschnet import saving
from pygschnet.datasets import MoleculeData
from pygschnet.errors import InputError
from pygschnet.model import AtomisticModel
from pygschnet.training import AtomisticModule


def model_facts(path: str) -> tuple[dict[str, Any], AtomisticModel]:
    """What a model file says about the model, and the model.

    Raises:
        InputError: if it is no model file.
    """
    description = saving.describe(path)
    model = saving.load(path)
    known = model.head.elements.nonzero().flatten().tolist()
    facts = {
        "path": path,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "elements": [chemical_symbols[number] for number in known],
        **description,
    }
    return facts, model


def from_config(path: str) -> tuple[AtomisticModule, MoleculeData, dict[str, Any]]:
    """Model and data of a run's configuration, and the settings of its Trainer.

    Raises:
        InputError: if it is no complete configuration.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}")
    try:
        config = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {error}") from None
    if not isinstance(config, dict) or not {"model", "data"} <= config.keys():
        raise InputError(f"{path} does not describe a model and data: give the config.yaml of a run")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(AtomisticModule, "model")
    parser.add_subclass_arguments(MoleculeData, "data")
    try:
        parts = parser.instantiate(parser.parse_object({"model": config["model"], "data": config["data"]}))
    except (TypeError, KeyError, ArgumentError) as error:
        raise InputError(f"{path} cannot be used: {error}") from None
    return parts.model, parts.data, config.get("trainer") or {}
