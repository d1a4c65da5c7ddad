"""SchNetPack 0.3 and 1.x, 2.x: whole models (`best_model`), state_dicts and Lightning checkpoints."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pygschnet.convert.assemble import Unsaid, Weights, gamma_of, refuse_rest, rename
from pygschnet.convert.foreign import Foreign, number
from pygschnet.errors import InputError

BLOCK = r"representation\.interactions\.(\d+)\."
NAMES = [
    (r"representation\.embedding\.weight", "representation.embedding.weight"),
    (BLOCK + r"(?:cfconv\.)?in2f\.weight", r"representation.blocks.\1.in2f.weight"),
    (BLOCK + r"(?:cfconv\.f2out|f2out\.0)\.(\w+)", r"representation.blocks.\1.f2out.\2"),
    (BLOCK + r"(?:dense|f2out\.1)\.(\w+)", r"representation.blocks.\1.dense.\2"),
    (BLOCK + r"(?:cfconv\.)?filter_network\.0\.(\w+)", r"representation.filter_networks.\1.dense_1.\2"),
    (BLOCK + r"(?:cfconv\.)?filter_network\.1\.(\w+)", r"representation.filter_networks.\1.dense_2.\2"),
    (r"output_modules\.\d+\.(?:outnet|out_net\.1\.out_net)\.0\.(\w+)", r"head.dense_1.\1"),
    (r"output_modules\.\d+\.(?:outnet|out_net\.1\.out_net)\.1\.(\w+)", r"head.dense_2.\1"),
]
"""1.x's names and 2.x's, and ours."""

CLASSES = {
    # the model and what is in it
    *("NeuralNetworkPotential", "AtomisticModel", "SchNet", "SchNetInteraction", "CFConv", "Dense", "Aggregate"),
    *("AtomDistances", "PairwiseDistances", "GaussianSmearing", "GaussianRBF"),
    *("CosineCutoff", "MollifierCutoff", "HardCutoff"),
    # outputs
    *("Atomwise", "Forces", "Strain", "GetItem", "MLP", "ScaleShift"),
    *("CastTo64", "CastTo32", "CastMap", "AddOffsets", "ScaleProperty"),
    # torch's
    *("Sequential", "ModuleList", "Embedding", "Identity", "SiLU"),
}
"""Modules whose effect is known here; a model with any other is refused."""

ACTIVATIONS = {"shifted_softplus": "ssp", "silu": "silu", "SiLU": "silu", "Identity": "none"}
CUTOFFS = {"CosineCutoff": "cosine", "MollifierCutoff": "mollifier", "HardCutoff": "hard"}


def weights(tensors: dict[str, Tensor], tree: Foreign | None, unsaid: Unsaid) -> Weights:
    """Read a SchNet of SchNetPack.

    Args:
        tensors: its state_dict.
        tree: its modules; null if there is a state_dict only.
        unsaid: what the user says in place of the file.

    Raises:
        InputError: naming what this package cannot represent.
    """
    ours, rest = rename(tensors, NAMES)
    said = {} if tree is None else _settings(tree)

    def take(pattern: str) -> Tensor | None:
        """Tensors of all names that match, which must be equal: buffers are repeated in each block."""
        found = [rest.pop(name) for name in sorted(rest) if re.fullmatch(pattern, name)]
        if any(not torch.equal(found[0], other) for other in found):
            raise InputError(f"the interaction blocks differ in {pattern!r}")
        return found[0] if found else None

    basis = r"representation\.(?:radial_basis|distance_expansion)\."
    centres, widths = take(basis + "offsets"), take(basis + "widths?")
    if centres is None or widths is None:
        raise InputError("the file holds no Gaussians: other radial bases cannot be converted")
    smooth = take(r"representation\..*cutoff\w*\.eps") is not None
    radius = take(r"representation\..*cutoff(?:_fn|_network)\.cutoff")
    cutoff = None if radius is None else number(radius.flatten()[:1])
    form = said.get("cutoff_form") or ("mollifier" if smooth else None)
    if form is None and radius is not None and any(name.endswith("radial_basis.offsets") for name in tensors):
        form = "cosine"  # 2.x has no other without an ε
    if form != "none" and cutoff is None:
        cutoff = unsaid.settle("cutoff", None, None)
        if cutoff is None:
            raise InputError("the file does not say how far interactions reach: give the cutoff")
        form = unsaid.settle("cutoff_form", form, "hard")
    result = Weights(
        tensors=ours,
        centres=centres,
        gamma=gamma_of(widths.double()),
        cutoff=unsaid.settle("cutoff", cutoff, None) if form != "none" else None,
        cutoff_form=unsaid.settle("cutoff_form", form, "cosine"),
        filter_final_activation=False,
        activation=unsaid.settle("activation", said.get("activation"), "silu" if "outnet" in str(tensors) else "ssp"),
        aggregation=unsaid.settle("aggregation", said.get("aggregation"), "sum"),
    )
    result = _standardised(result, take)
    result = _postprocessed(result, said.get("postprocessors"), take)
    refuse_rest(rest)
    return result


def _standardised(weights: Weights, take: Any) -> Weights:
    """Scale, shift and references of 1.x, which are in the output module."""
    scale, shift = (take(rf"output_modules\.\d+\.standardize\.{name}") for name in ("stddev", "mean"))
    references = take(r"output_modules\.\d+\.atomref\.weight")
    return weights._replace(
        scale=1.0 if scale is None else number(scale),
        shift=0.0 if shift is None else number(shift),
        references=references,
    )


def _postprocessed(weights: Weights, steps: Sequence[dict[str, Any]] | None, take: Any) -> Weights:
    """Scale, shift and references of 2.x, which are applied after the output module."""
    indices = range(20) if steps is None else range(len(steps))
    for index in indices:
        step = {} if steps is None else steps[index]
        found = {name: take(rf"postprocessors\.{index}\.{name}") for name in ("scale", "mean", "atomref")}
        if step.get("skip"):
            continue
        if found["scale"] is not None:
            factor = number(found["scale"])
            references = None if weights.references is None else weights.references * factor
            weights = weights._replace(
                scale=weights.scale * factor, shift=weights.shift * factor, references=references
            )
        if found["mean"] is not None and step.get("add_mean", True):
            weights = weights._replace(shift=weights.shift + number(found["mean"]))
        if found["atomref"] is not None and step.get("add_atomrefs", True):
            table = found["atomref"].double().flatten()
            weights = weights._replace(references=table if weights.references is None else weights.references + table)
    return weights


def _settings(tree: Foreign) -> dict[str, Any]:
    """What a whole model says of itself beyond its tensors."""
    modules = tree.modules()
    for path, module in modules.items():
        known = module.name.startswith(("schnetpack.", "torch.nn."))
        if not known or module.name.rpartition(".")[2] not in CLASSES:
            raise InputError(f"this model has a {module.name} ({path or 'itself'}), which cannot be converted")
    outputs = {path: module for path, module in modules.items() if module.name.endswith(".Atomwise")}
    if len(outputs) != 1:
        raise InputError(f"the model should predict one energy, it has {len(outputs)} Atomwise output modules")
    output = next(iter(outputs.values()))
    representation = tree.get("representation")
    if representation.get("charged_systems"):
        raise InputError("the model depends on the total charge (charged_systems), which cannot be converted")
    if any(module.get("average") for path, module in modules.items() if path.endswith("cfconv.agg")):
        raise InputError("the model has normalised filters (normalize_filter), which cannot be converted")
    if any(module.get("centered") for module in modules.values()):
        raise InputError("the model has Gaussians centred at zero, which cannot be converted")
    cutoffs = {CUTOFFS[name] for module in modules.values() if (name := module.name.rpartition(".")[2]) in CUTOFFS}
    pool = output.get("atom_pool")
    mode = output.get("aggregation_mode") if pool is None else "avg" if pool.get("average") else "sum"
    if mode not in ("sum", "avg"):
        raise InputError(f"the energies of the atoms are aggregated by {mode!r}, not by 'sum' or 'avg'")
    if len(cutoffs) > 1:
        raise InputError(f"the model has several cutoff functions: {', '.join(sorted(cutoffs))}")
    return {
        "activation": _activation(modules),
        "aggregation": {"sum": "sum", "avg": "mean"}[mode],
        "cutoff_form": next(iter(cutoffs), "none"),
        "postprocessors": _postprocessors(tree, output, modules),
    }


def _activation(modules: dict[str, Foreign]) -> str:
    """Of the output network's hidden layer; all others are checked to be SchNet's."""
    found = "none"
    for path, module in modules.items():
        if not module.name.endswith(".Dense"):
            continue
        function = module.get("activation")
        name = "Identity" if function is None else getattr(function, "name", str(function)).rpartition(".")[2]
        activation = ACTIVATIONS.get(name, name)
        if re.search(r"out_?net\.0$", path):
            found, wanted = activation, {"ssp", "silu"}
        else:
            wanted = {"ssp"} if re.search(r"(filter_network\.0|cfconv\.f2out|f2out\.0)$", path) else {"none"}
        if activation not in wanted:
            raise InputError(f"{path} has the activation {name}, which cannot be converted")
    return found


def _postprocessors(tree: Foreign, output: Foreign, modules: dict[str, Foreign]) -> list[dict[str, Any]]:
    """What each step after the output module is told to do."""
    energy, extensive = output.get("output_key"), output.get("aggregation_mode") == "sum"
    container = tree.get("postprocessors")
    steps: list[dict[str, Any]] = []
    scaled: dict[Any, float] = {}
    for module in [] if container is None else container.children().values():
        kind = module.name.rpartition(".")[2]
        key = module.get("_property") if kind == "AddOffsets" else module.get("input_key")
        step = {name: module.get(name) for name in ("add_mean", "add_atomrefs")} if kind == "AddOffsets" else {}
        step["skip"] = not kind.startswith("Cast") and (key != energy or tree.get("do_postprocessing") is False)
        steps.append(step)
        if kind == "AddOffsets" and not step["skip"] and module.get("is_extensive") is not extensive:
            raise InputError("offsets and energies of the atoms are not aggregated alike (is_extensive)")
        if kind == "ScaleProperty":
            if module.get("output_key") != key:
                raise InputError(f"{key!r} is scaled to {module.get('output_key')!r}, which cannot be converted")
            scaled[key] = scaled.get(key, 1.0) * number(module.get("scale"))
    for forces in (module.get("force_key") for module in modules.values() if module.name.endswith(".Forces")):
        if tree.get("do_postprocessing") is not False and scaled.get(energy, 1.0) != scaled.get(forces, 1.0):
            raise InputError("energies and forces are scaled differently: such forces are no derivatives")
    return steps
