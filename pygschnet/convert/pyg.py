"""`torch_geometric.nn.models.SchNet`: state_dicts and whole models."""

from torch import Tensor

from pygschnet.convert.assemble import Unsaid, Weights, refuse_rest, rename
from pygschnet.convert.foreign import Foreign, number, optional_number
from pygschnet.errors import InputError

BLOCK = r"interactions\.(\d+)\."
NAMES = [
    (r"embedding\.weight", "representation.embedding.weight"),
    (BLOCK + r"conv\.lin1\.weight", r"representation.blocks.\1.in2f.weight"),
    (BLOCK + r"conv\.lin2\.(\w+)", r"representation.blocks.\1.f2out.\2"),
    (BLOCK + r"lin\.(\w+)", r"representation.blocks.\1.dense.\2"),
    (BLOCK + r"(?:mlp|conv\.nn)\.0\.(\w+)", r"representation.filter_networks.\1.dense_1.\2"),  # under two names
    (BLOCK + r"(?:mlp|conv\.nn)\.2\.(\w+)", r"representation.filter_networks.\1.dense_2.\2"),
    (r"lin1\.(\w+)", r"head.dense_1.\1"),
    (r"lin2\.(\w+)", r"head.dense_2.\1"),
]
"""PyG's names, and ours."""

MODELS = "torch_geometric.nn.models.schnet."
CLASSES = {
    *(MODELS + name for name in ("SchNet", "InteractionBlock", "CFConv", "GaussianSmearing", "ShiftedSoftplus")),
    MODELS + "RadiusInteractionGraph",
    *("torch_geometric.nn.aggr.basic.SumAggregation", "torch_geometric.nn.aggr.basic.MeanAggregation"),
    *("torch.nn.modules.container.Sequential", "torch.nn.modules.container.ModuleList"),
    *("torch.nn.modules.linear.Linear", "torch.nn.modules.sparse.Embedding"),
}
"""Modules whose effect is known here; a model with any other is refused."""


def weights(tensors: dict[str, Tensor], tree: Foreign | None, unsaid: Unsaid) -> Weights:
    """Read a SchNet of PyTorch Geometric.

    Args:
        tensors: its state_dict.
        tree: its modules; null if there is a state_dict only.
        unsaid: what the user says in place of the file.

    Raises:
        InputError: naming what this package cannot represent.
    """
    ours, rest = rename(tensors, NAMES)
    if "atomic_mass" in rest:
        raise InputError("this model predicts dipole moments (dipole=True), which cannot be converted")
    if (centres := rest.pop("distance_expansion.offset", None)) is None or len(centres) < 2:
        raise InputError("the file holds no Gaussians: distance_expansion.offset is missing")
    references = rest.pop("atomref.weight", None)
    rest.pop("initial_atomref", None)  # what the references were before training
    refuse_rest(rest)
    if tree is None:
        aggregation, factor = unsaid.settle("aggregation", None, "sum"), 1.0
        shift, scale = unsaid.settle("mean", None, 0.0), unsaid.settle("std", None, 1.0)
    else:
        aggregation = unsaid.settle("aggregation", _aggregation(tree), "sum")
        shift, scale = optional_number(tree.get("mean")), optional_number(tree.get("std"))
        shift, scale = (0.0, 1.0) if shift is None or scale is None else (shift, scale)  # as PyG does
        factor = 1.0 if tree.get("scale") is None else number(tree.get("scale"))
    return Weights(
        tensors=ours,
        centres=centres,
        gamma=0.5 / (centres[1] - centres[0]).item() ** 2,
        cutoff=unsaid.settle("cutoff", centres[-1].item() if tree is None else number(tree.get("cutoff")), None),
        cutoff_form="cosine",
        filter_final_activation=False,
        activation="ssp",
        aggregation=aggregation,
        scale=scale * factor,
        shift=shift * factor,
        references=None if references is None else references.double() * factor,
    )


def _aggregation(tree: Foreign) -> str:
    for path, module in tree.modules().items():
        if module.name not in CLASSES:
            raise InputError(f"this model has a {module.name} ({path or 'itself'}), which cannot be converted")
    graph = tree.get("interaction_graph")
    if graph is not None and getattr(graph, "name", "") != MODELS + "RadiusInteractionGraph":
        raise InputError("this model has an interaction_graph of its own: save its state_dict and convert that")
    if tree.get("dipole"):
        raise InputError("this model predicts dipole moments (dipole=True), which cannot be converted")
    if any(number(block.get("conv").get("cutoff")) != tree.get("cutoff") for block in _blocks(tree)):
        raise InputError("the interaction blocks have cutoffs of their own, which cannot be converted")
    return "mean" if tree.get("readout").name.endswith("MeanAggregation") else "sum"


def _blocks(tree: Foreign) -> list[Foreign]:
    return [module for module in tree.modules().values() if module.name == MODELS + "InteractionBlock"]
