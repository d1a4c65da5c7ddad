"""`pygschnet evaluate`: a model file and labelled data in, errors and pictures out."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase.data import chemical_symbols

from pygschnet import saving
from pygschnet.datasets import MoleculeData
from pygschnet.datasets.choose import open_file
from pygschnet.errors import InputError
from pygschnet.evaluate.errors import PER_ATOM, Evaluation, choose, errors_of
from pygschnet.evaluate.summary import summarize
from pygschnet.evaluate.text import as_text
from pygschnet.graph import RadiusGraph
from pygschnet.training.plots import plot_parity
from pygschnet.training.report import PACKAGES, device_name, write_json
from pygschnet.training.run import check_writable


def evaluate(
    model: str,
    file: str | None = None,
    data: MoleculeData | None = None,
    part: Literal["all", "train", "val", "test"] = "all",
    out: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    max_edges: int = 100_000,
) -> dict[str, Any]:
    """Print the errors of a model file on labelled data: energies, forces, stress; by element and by composition.

    Args:
        model: the model file, model.safetensors of a run.
        file: labelled structures: npz of MD17 or rMD17, which are in kcal/mol, or whatever the data set Files reads, in
            eV and Å.
        data: instead of a file a data set with settings, such as units or names of the labels.
        part: "train", "val" or "test" of the data set's split; "all" for all structures but isolated atoms.
        out: folder for metrics.json and the pictures; nothing is written if null.
        device: "cpu", "cuda", or "auto" for a GPU if there is one.
        max_edges: atoms and edges in a batch, which decide how much memory is needed.

    Returns:
        What metrics.json holds.

    Raises:
        InputError: for files that cannot be read, have no labels, or hold elements unknown to the model.
    """
    if (file is None) == (data is None):
        raise InputError("give either a file with labelled structures, or --data with its settings")
    if max_edges < 1:
        raise InputError(f"max_edges must be 1 or more, got {max_edges}")
    folder = None if out is None else Path(out)
    if folder is not None:
        if (folder / "config.yaml").exists():
            raise InputError(
                f"{folder} is the folder of a training, whose metrics.json must stay: choose another --out"
            )
        check_writable(folder)
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no GPU that torch can use: take --device cpu; pygschnet doctor tells more")
    on = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    network = saving.load(model).to(on)
    trained_on = saving.describe(model)["summary"].get("data", {}).get("files", {})
    labelled = open_file(str(file)) if data is None else data
    if labelled.molecules is None:
        labelled.graph = RadiusGraph(network.cutoff, labelled.graph.backend)
    labelled.setup("predict" if part == "all" else "fit")
    evaluation = errors_of(network, labelled, choose(labelled, part), on, max_edges)
    summary = summarize(evaluation, labelled)
    print(as_text(summary, part))
    if part == "all" and set(trained_on.values()) & set(labelled.describe()["files"].values()):
        print(
            "NOTE the model was trained on structures of this file: its run's config with --part test leaves them out"
        )
    record = {"model": model, "data": labelled.describe(), "part": part, **summary, "device": device_name(on)}
    record["versions"] = {package: version(package) for package in PACKAGES} | {"python": platform.python_version()}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(record, folder / "metrics.json")
        draw(evaluation, summary, folder)
        print(f"metrics.json and pictures are in {folder}")
    return record


def draw(evaluation: Evaluation, summary: dict[str, Any], folder: Path) -> None:
    """Draw predicted against reference values, of several compositions the energies per atom."""
    one = len(summary["compositions"]) == 1
    for name, values in evaluation.drawn.items():
        if name == (PER_ATOM if one else "energy") or not len(values.owner):
            continue
        found = summary["errors"][name]
        elements = {chemical_symbols[number]: values.z == number for number in np.unique(values.z)}
        kept = values.reference.size
        shown = f"{kept:,} values" if kept == found["count"] else f"{kept:,} of {found['count']:,} values"
        path = folder / f"parity_{name.replace(' ', '_')}.png"
        plot_parity(values.reference, values.predicted, name, found["unit"], shown, found["mae"], path, elements)
