"""The TensorFlow code released with arXiv:1706.08566: its checkpoints and the `args.npy` beside them."""

import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pygschnet.convert.assemble import Unsaid, Weights, refuse_rest, rename
from pygschnet.convert.bundle import read_bundle
from pygschnet.convert.foreign import Foreign, number, optional_number, record
from pygschnet.errors import InputError

GAP = 0.1
"""The code's distance between Gaussians, nominally; γ is its inverse. No script of the code changes it."""

SKIN = 0.6
"""How much further than asked the neighbours reach that the code took from ASE, whose skin of 0.3 Å counts twice."""

LETTERS = {"W": "weight", "b": "bias"}
NAMES = [
    (r"atom_embedding/embeddings/weight", "representation.embedding.weight"),
    (r"interaction_(\d+)/CFConv/in2fac/weight", r"representation.blocks.\1.in2f.weight"),
    (r"interaction_(\d+)/CFConv/fac2out/(\w+)", r"representation.blocks.\1.f2out.\2"),
    (r"interaction_(\d+)/Dense/(\w+)", r"representation.blocks.\1.dense.\2"),
    (r"interaction_(\d+)/SchNetFilter/Dense/(\w+)", r"representation.filter_networks.\1.dense_1.\2"),
    (r"interaction_(\d+)/SchNetFilter/Dense_1/(\w+)", r"representation.filter_networks.\1.dense_2.\2"),
    (r"Dense/(\w+)", r"head.dense_1.\1"),
    (r"Dense_1/(\w+)", r"head.dense_2.\1"),
]
"""The code's names, and ours."""

TRAINING = r"global_step|beta\d_power|.*/(Adam(_1)?|ExponentialMovingAverage)"
"""What training checkpoints hold besides: the code never evaluated its averages."""


def checkpoint(source: str) -> str | None:
    """The prefix of the checkpoint that a path means, be it the prefix or one of the files; None if it is none."""
    prefix = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", source)
    return prefix if Path(f"{prefix}.index").is_file() else None


def weights(prefix: str, unsaid: Unsaid) -> Weights:
    """Read a SchNet of 2017.

    Args:
        prefix: path of the checkpoint without `.index`.
        unsaid: what the user says in place of the file.

    Raises:
        InputError: naming what this package cannot represent, or what is to be given.
    """
    tensors = {}
    for name, values in read_bundle(prefix).items():
        path = re.sub(r"^SchNet(_\d+)?/", "", name.removesuffix(":0"))
        if re.fullmatch(TRAINING, path):
            continue
        folder, _, letter = path.rpartition("/")
        path = f"{folder}/{LETTERS[letter]}" if letter in LETTERS else path
        is_dense = letter == "W" and "embeddings" not in folder
        tensors[path] = values.T.contiguous() if is_dense else values
    if any(name.startswith("interaction/") for name in tensors):
        raise InputError("the interaction blocks share their weights (shared_interactions), which cannot be converted")
    ours, rest = rename(tensors, NAMES)
    scale, shift = rest.pop("std_per_atom", torch.ones(1)), rest.pop("mean_per_atom", torch.zeros(1))
    references = rest.pop("atomref/embeddings/weight", None)
    refuse_rest(rest)
    first = ours.get("representation.filter_networks.0.dense_1.weight", torch.zeros(1, 0))
    said = _arguments(prefix)
    cutoff = _cutoff(unsaid, optional_number(said.get("cutoff")), first.shape[1])
    intensive = said.get("intensive")
    mode = None if intensive is None else ("mean" if intensive else "sum")
    return Weights(
        tensors=ours,
        centres=torch.from_numpy(np.linspace(0.0, cutoff, first.shape[1])),
        gamma=1 / GAP,
        cutoff=cutoff + SKIN,
        cutoff_form="hard",
        filter_final_activation=True,
        activation="ssp",
        aggregation=unsaid.settle("aggregation", mode, "sum"),
        scale=number(scale),
        shift=number(shift),
        references=references,
    )


def _cutoff(unsaid: Unsaid, said: float | None, gaussians: int) -> float:
    cutoff = unsaid.settle("cutoff", said, None)
    if cutoff is None:
        raise InputError(
            f"the checkpoint does not say its cutoff, and there is no args.npy in the folder above it: give the "
            f"cutoff, which is above {GAP * (gaussians - 1):.1f} and at most {GAP * gaussians:.1f}"
        )
    if math.ceil(cutoff / GAP) != gaussians:
        raise InputError(
            f"a cutoff of {cutoff} means {math.ceil(cutoff / GAP)} Gaussians, the checkpoint has {gaussians}"
        )
    return cutoff


def _arguments(prefix: str) -> dict[str, Any]:
    """The arguments of the training script, which saved them as a pickled object in an array."""
    path = Path(prefix).parent.parent / "args.npy"
    if not path.is_file():
        return {}
    try:
        file = io.BytesIO(path.read_bytes())
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        namespace = record(file).state[-1][0]
        return dict(namespace.state) if isinstance(namespace, Foreign) else {}
    except Exception as error:  # hostile or damaged, there is nothing that it could not be
        raise InputError(f"{path} is damaged: {error!r}") from None
