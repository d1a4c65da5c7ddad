"""Model files: numbers and JSON, no code. Also the presets, which are models without numbers."""

import importlib
import inspect
import json
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pygschnet.errors import InputError
from pygschnet.files import replacing
from pygschnet.model import AtomisticModel
from pygschnet.units import UNITS

FORMAT = 1
"""Version of the model file."""

PRESETS = ("paper", "tf2017", "schnetpack", "pyg")
"""The published variants of SchNet that `preset` knows."""


def preset(name: str) -> AtomisticModel:
    """An untrained model with the architecture of a published SchNet.

    Args:
        name: "paper" (arXiv:1706.08566), "tf2017" (the code released with it), "schnetpack" (SchNetPack 1.0) or
            "pyg" (PyTorch Geometric).

    Raises:
        InputError: for any other name.
    """
    settings = yaml.safe_load(preset_file(name).read_text())["model"]
    return AtomisticModel(build(settings["representation"]), build(settings["head"]))


def preset_file(name: str) -> Path:
    """The YAML file of a preset, which the command line takes too."""
    if name not in PRESETS:
        raise InputError(f"there is no preset {name!r}: choose one of {', '.join(PRESETS)}")
    return Path(str(files("pygschnet.presets") / f"{name}.yaml"))


def save(model: AtomisticModel, path: str | Path, summary: dict[str, Any] | None = None) -> None:
    """Write a model to one safetensors file, whole or not at all.

    Args:
        model: to be saved; its constructor arguments, being attributes of the same name, are saved with it.
        path: of the file.
        summary: anything JSON can hold about the training, returned by nothing but kept for the reader.
    """
    description = {
        "format": FORMAT,
        "version": version("pygschnet"),
        "units": UNITS,
        "cutoff": model.cutoff,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "representation": architecture(model.representation),
        "head": architecture(model.head),
        "properties": {name: architecture(head) for name, head in model.properties.items()},
        "summary": summary or {},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as part:
        save_file(tensors, part, {"pygschnet": json.dumps(description)})


def load(path: str | Path) -> AtomisticModel:
    """Read a model that `save` has written, ready to predict.

    Args:
        path: of the file.

    Raises:
        InputError: if it is no model file, or one of a newer version.
    """
    description, tensors = read(path)
    properties = {name: build(head) for name, head in description.get("properties", {}).items()}
    model = AtomisticModel(build(description["representation"]), build(description["head"]), properties)
    model.to(getattr(torch, description["dtype"])).load_state_dict(tensors)
    return model.eval()


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `save` has written: the description of the model, and its tensors.

    Args:
        path: of the file.

    Raises:
        InputError: if it is no model file, or one of a newer version.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dictionary
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a model file, or is damaged: {error}") from None
    if "pygschnet" not in metadata:
        raise InputError(f"{path} holds tensors, but not a model of this package")
    description = json.loads(metadata["pygschnet"])
    if description["format"] > FORMAT:
        raise InputError(
            f"{path} was written by pygschnet {description['version']} in format {description['format']}; "
            f"this version reads formats up to {FORMAT}: update pygschnet"
        )
    return description, tensors


def architecture(module: nn.Module) -> dict[str, Any]:
    """Class and constructor arguments of a module, which keeps each as an attribute of the same name."""
    names = inspect.signature(type(module)).parameters
    return {
        "class_path": f"{type(module).__module__}.{type(module).__qualname__}",
        "init_args": {name: getattr(module, name) for name in names},
    }


def build(description: dict[str, Any]) -> Any:
    """The module that `architecture` describes.

    Classes come from this package or from modules that the user has imported: a file cannot import anything.

    Raises:
        InputError: for any other class.
    """
    module_name, _, class_name = description["class_path"].rpartition(".")
    if module_name.partition(".")[0] == "pygschnet":
        importlib.import_module(module_name)
    cls = getattr(sys.modules.get(module_name), class_name, None)
    if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
        raise InputError(f"the model needs {description['class_path']}: import {module_name} first")
    return cls(**description["init_args"])
