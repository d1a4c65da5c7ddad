"""Other people's models: SchNets of SchNetPack, PyTorch Geometric and the TensorFlow code of 2017, and sGDML's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from pygschnet.convert import pyg, schnetpack, sgdml, tf2017
from pygschnet.convert.assemble import Unsaid, assemble
from pygschnet.convert.foreign import Foreign, read, tensor
from pygschnet.errors import InputError
from pygschnet.model import AtomisticModel
from pygschnet.nn.cutoff import Form
from pygschnet.saving import architecture, save
from pygschnet.units import unit_factor

__all__ = ["Converted", "convert", "from_foreign"]

Kind = Literal["auto", "schnetpack", "pyg", "tf2017", "sgdml"]


class Converted(NamedTuple):
    """A model that was somebody else's.

    Attributes:
        model: ready to predict.
        kind: "schnetpack", "pyg", "tf2017" or "sgdml".
        assumed: settings that neither the file nor the caller has said, with the defaults taken instead.
    """

    model: AtomisticModel
    kind: str
    assumed: dict[str, Any]


def convert(
    source: str,
    output: str,
    kind: Kind = "auto",
    energy_unit: str | None = None,
    length_unit: str = "Å",
    cutoff: float | None = None,
    cutoff_form: Form | None = None,
    activation: Literal["ssp", "silu"] | None = None,
    aggregation: Literal["sum", "mean"] | None = None,
    mean: float | None = None,
    std: float | None = None,
    elements: list[str] | None = None,
) -> None:
    """Write somebody else's SchNet, or a force field of sGDML, as a model file of this package.

    Nothing in the source is run. What cannot be represented exactly is refused, and what the source leaves open is
    printed.

    Args:
        source: a model, state_dict or Lightning checkpoint of SchNetPack or PyTorch Geometric, or a checkpoint of
            the TensorFlow code of 2017 (best_model-5000, with its .index and .data files); or an npz file of sGDML.
        output: the file to write, such as model.safetensors.
        kind: "schnetpack", "pyg", "tf2017" or "sgdml"; "auto" looks at the file.
        energy_unit: the unit of the energies that the model was trained on, such as "eV" or "kcal/mol"; only some of
            sGDML's files say.
        length_unit: the unit of the positions that it was trained on.
        cutoff: radius of the neighbourhood in length_unit, if the file does not hold it.
        cutoff_form: "cosine", "hard", "mollifier" or "polynomial", if the file does not say.
        activation: "ssp" or "silu", of the output network of a state_dict.
        aggregation: "sum" or "mean" over the atoms, of a state_dict.
        mean: PyG's argument of this name, in energy_unit, which a state_dict does not hold.
        std: PyG's argument of this name, in energy_unit, which a state_dict does not hold.
        elements: those the model was trained on, which it will predict; if null those it has reference energies for,
            or all if it has none.
    """
    given = dict(cutoff=cutoff, cutoff_form=cutoff_form, activation=activation, aggregation=aggregation)
    converted = from_foreign(source, kind, energy_unit, length_unit, elements, {**given, "mean": mean, "std": std})
    summary = {"converted_from": Path(source).name, "kind": converted.kind, "assumed": converted.assumed}
    save(converted.model, output, summary)
    description = architecture(converted.model.representation)
    system, settings = description["class_path"].rpartition(".")[2], description["init_args"]
    said = "" if energy_unit is None else f", energies in {energy_unit}"
    print(f"{source}: a {system} of {converted.kind}{said}, written to {output}")
    shown = [name for name in ("features", "interactions", "gaussians", "cutoff", "sigmas") if name in settings]
    print("  " + ", ".join(f"{name} {settings[name]}" for name in shown))
    for name, value in converted.assumed.items():
        print(f"  the file does not say {name}, taken: {value}; if that is wrong give --{name}")


def from_foreign(
    source: str | Path,
    kind: Kind = "auto",
    energy_unit: str | None = None,
    length_unit: str = "Å",
    elements: Sequence[str] | None = None,
    given: dict[str, Any] | None = None,
) -> Converted:
    """Read somebody else's SchNet; `convert` explains the arguments.

    Args:
        source: path of the file, or of a checkpoint of TensorFlow without `.index`.
        kind: whose it is.
        energy_unit: of the model.
        length_unit: of the model.
        elements: that it was trained on.
        given: any of the settings cutoff, cutoff_form, activation, aggregation, mean and std.

    Raises:
        InputError: naming what is missing or cannot be represented.
    """
    if kind == "sgdml" or (kind == "auto" and sgdml.is_force_field(source)):
        unsaid = Unsaid({**(given or {}), "elements": elements})
        unsaid.refuse_rest()
        return Converted(sgdml.force_field(source, energy_unit, length_unit), "sgdml", {})
    if energy_unit is None:
        raise InputError(
            "model files do not say their unit of energy: give --energy_unit, such as eV (QM9 of PyG), kcal/mol "
            "(MD17) or Ha; in SchNetPack it was property_units of the data"
        )
    energy, length = unit_factor(energy_unit, "energy"), unit_factor(length_unit, "pos")
    unsaid = Unsaid(given or {})
    prefix = tf2017.checkpoint(str(source))
    if kind == "tf2017" or (kind == "auto" and prefix is not None):
        weights, kind = tf2017.weights(prefix or str(source), unsaid), "tf2017"
    else:
        tensors, tree = _contents(read(source))
        if kind == "auto":
            kind = "pyg" if any(".mlp." in name or ".conv.nn." in name for name in tensors) else "schnetpack"
        weights = (pyg if kind == "pyg" else schnetpack).weights(tensors, tree, unsaid)
    unsaid.refuse_rest()
    return Converted(assemble(weights, energy, length, elements), kind, unsaid.assumed)


def _contents(content: Any) -> tuple[dict[str, Tensor], Foreign | None]:
    """State_dict and modules of a model, a state_dict alone, or a checkpoint."""
    if isinstance(content, Foreign):
        if content.get("_modules") is None:
            raise InputError(f"the file holds a {content.name}, which is no model; nothing of it was run")
        return content.tensors(), content
    if not isinstance(content, dict):
        raise InputError(f"the file holds a {type(content).__name__}, neither a model nor a state_dict")
    tree = None
    if "state_dict" in content:
        settings, content = content.get("hyper_parameters"), content["state_dict"]
        tree = settings.get("model") if isinstance(settings, dict) else None
        if not isinstance(content, dict):
            raise InputError("what the file calls its state_dict is none; nothing of it was run")
    ends = [str(name) for name in content if str(name).endswith("embedding.weight")]
    if len(ends) != 1:
        raise InputError("the file holds no state_dict of a SchNet, or several" if not ends else f"which of {ends}?")
    prefix = ends[0].removesuffix("embedding.weight").removesuffix("representation.")
    named = {str(name)[len(prefix) :]: node for name, node in content.items() if str(name).startswith(prefix)}
    return {name: tensor(node) for name, node in named.items()}, tree if isinstance(tree, Foreign) else None
