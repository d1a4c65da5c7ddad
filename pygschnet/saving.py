"""Model files: numbers and JSON, no code. Also the presets, which are models without numbers."""

import glob
import hashlib
import importlib
import inspect
import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from ase.data import chemical_symbols
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pygschnet.elements import MAX_Z
from pygschnet.errors import InputError
from pygschnet.files import replacing
from pygschnet.model import AtomisticModel
from pygschnet.units import UNITS

FORMAT = 2
"""Version of the model file; `UPGRADES` reads the older ones."""

VARIANTS = ("default", "paper", "tf2017", "schnetpack", "pyg")
"""The variants of SchNet that `preset` knows: the recommended one, and those that were published."""

SYSTEMS = ("dtnn", "dtnn_code", "wacsf", "acsf", "enn_s2s", "gdml", "sgdml", "mean", "least_squares")
"""The other systems of its papers, and the baselines."""

PRESETS = VARIANTS + SYSTEMS


def preset(name: str) -> AtomisticModel:
    """An untrained model with a published architecture.

    Args:
        name: of SchNet "paper" (arXiv:1706.08566), "tf2017" (the code released with it), "schnetpack" (SchNetPack 1.0)
            or "pyg" (PyTorch Geometric); "dtnn" (arXiv:1609.08259), "dtnn_code" (the code released with it), "wacsf"
            and "acsf" (Behler–Parrinello networks), "enn_s2s" (arXiv:1704.01212), "gdml", "sgdml"; and the baselines
            "mean" and "least_squares".

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
        summary: anything JSON can hold about the training; `describe` returns it.
    """
    representation, head = architecture(model.representation), architecture(model.head)
    description = {
        "format": FORMAT,
        "version": version("pygschnet"),
        "units": UNITS,
        "cutoff": model.cutoff,
        "dtype": str(model.dtype).removeprefix("torch."),
        "elements": [chemical_symbols[number] for number in model.head.elements.nonzero().flatten().tolist()],
        "preset": _preset_of(representation, head),
        "representation": representation,
        "head": head,
        "properties": {name: architecture(head) for name, head in model.properties.items()},
        "summary": summary or {},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    written = json.dumps(description)
    with replacing(path) as part:
        save_file(tensors, part, {"pygschnet": written, "sha256": _digest(written, tensors)})


def load(path: str | Path) -> AtomisticModel:
    """Read a model that `save` has written, of this version or an older one, ready to predict.

    Args:
        path: of the file.

    Raises:
        InputError: if it is no model file, has been changed since it was written, or is one of a newer version.
    """
    description, tensors = _read(path)
    try:
        properties = {name: build(head) for name, head in description["properties"].items()}
        model = AtomisticModel(build(description["representation"]), build(description["head"]), properties)
        model.to(getattr(torch, description["dtype"])).load_state_dict(tensors)
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise InputError(f"{path} does not describe its own weights: {error}") from None
    return model.eval()


def describe(path: str | Path) -> dict[str, Any]:
    """What a model file says of itself: architecture, units, elements, cutoff, preset, version, training summary.

    Args:
        path: of the file.

    Raises:
        InputError: as for `load`.
    """
    return _read(path)[0]


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and weights of a model file, in the present format.

    Args:
        path: of the file.

    Raises:
        InputError: as for `load`.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dictionary
    except (SafetensorError, OSError, UnicodeError) as error:
        raise InputError(f"{path} is not a model file, or is damaged: {error}") from None
    if "pygschnet" not in metadata:
        raise InputError(f"{path} holds tensors, but not a model of this package")
    try:
        description = json.loads(metadata["pygschnet"])
        number = description["format"]
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{path} is damaged: its description cannot be read") from None
    if number > FORMAT:
        raise InputError(
            f"{path} was written by pygschnet {description['version']} in format {number}; "
            f"this version reads formats up to {FORMAT}: update pygschnet"
        )
    if number > 1 and metadata.get("sha256") != _digest(metadata["pygschnet"], tensors):
        raise InputError(f"{path} is damaged, or has been changed: its contents do not have the checksum it states")
    for older in range(number, FORMAT):
        UPGRADES[older](description, tensors)
    return description, tensors


def _digest(description: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that a model file holds."""
    digest = hashlib.sha256(description.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _from_1(description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Format 1 knew no other properties, and not how close atoms came in training."""
    description.setdefault("properties", {})
    description["elements"] = [chemical_symbols[z] for z in tensors["head.elements"].nonzero().flatten().tolist()]
    description["preset"] = _preset_of(description["representation"], description["head"])
    tensors["closest"] = torch.zeros(MAX_Z + 1, MAX_Z + 1)


UPGRADES = {1: _from_1}
"""What turns description and weights of each older format, in place, into those of the next."""


def _preset_of(*parts: dict[str, Any]) -> str | None:
    """The preset with this representation and head."""
    for name in PRESETS:
        settings = yaml.safe_load(preset_file(name).read_text())["model"]
        if [_complete(settings["representation"]), _complete(settings["head"])] == [_complete(part) for part in parts]:
            return name
    return None


def _complete(description: dict[str, Any]) -> dict[str, Any]:
    """With the defaults of all arguments that are not given."""
    parameters = inspect.signature(_class(description["class_path"])).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters}
    return {"class": _class(description["class_path"]), "init_args": defaults | description.get("init_args", {})}


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
    return _class(description["class_path"])(**description.get("init_args", {}))


def _class(path: str) -> type[nn.Module]:
    module_name, _, class_name = path.rpartition(".")
    if module_name.partition(".")[0] == "pygschnet":
        importlib.import_module(module_name)
    cls = getattr(sys.modules.get(module_name), class_name, None)
    if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
        raise InputError(f"the model needs {path}: import {module_name} first")
    return cls


def model_files(text: str) -> list[Path]:
    """The files of a committee, or the one file, named in a string.

    Args:
        text: names or patterns, such as "runs/*/model.safetensors", separated by commas.

    Raises:
        InputError: for a pattern that no file fits.
    """
    found: list[Path] = []
    for pattern in text.split(","):
        special = any(character in pattern for character in "*?[")
        files_ = sorted(map(Path, glob.glob(pattern.strip(), recursive=True))) if special else [Path(pattern.strip())]
        if not files_:
            raise InputError(f"no file fits {pattern}")
        found += files_
    return found
