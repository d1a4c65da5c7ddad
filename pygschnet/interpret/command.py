"""`pygschnet explain`: a model file and molecules in, one page that explains out."""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import ase.build
import numpy as np
from ase import Atoms
from ase.collections import g2
from ase.data import chemical_symbols
from torch_geometric.data import Data
from tqdm import tqdm

from pygschnet import saving
from pygschnet.datasets import MoleculeData
from pygschnet.errors import InputError
from pygschnet.files import check_folder, replacing, write_npz
from pygschnet.frames import read_frames
from pygschnet.graph import RadiusGraph
from pygschnet.interpret import captions, model_plots, plots, report
from pygschnet.interpret.attribution import signal_quality
from pygschnet.interpret.embedding import rank_correlations
from pygschnet.interpret.explanation import (
    EXTENT,
    HEIGHTS,
    ModelExplanation,
    MoleculeExplanation,
    arrays,
    explain_model,
    explain_molecule,
    ranges,
    trained_probes,
)
from pygschnet.interpret.patterns import estimate_patterns
from pygschnet.interpret.probe import local_chemical_potential
from pygschnet.interpret.space import grid_around, write_cube
from pygschnet.interpret.statistics import environment_statistics
from pygschnet.model import AtomisticModel

MOST = 8
"""Molecules in one report: browsers turn not many at once, and the file stays small enough to send."""


def explain(
    model: str,
    molecules: list[str],
    out: str = "report.html",
    probes: str | None = None,
    data: MoleculeData | None = None,
    structures: int = 10_000,
    files: str | None = None,
    spacing: float = 0.25,
) -> None:
    """Write one page, report.html, that shows how a model sees molecules: atoms, space, elements and filters.

    Args:
        model: model file; of several, separated by commas or as a pattern in quotes, the first is explained, and the
            others, trained with other seeds, tell how far it can be trusted.
        molecules: files that ASE reads, or names of molecules that ASE knows, such as C6H6.
        out: the page, one file that needs no network; -o for short.
        probes: elements for the local chemical potential, such as H,C; of H, C, N and O those the model knows if null.
        data: molecules like those of the training, for patterns and statistics, which are left out if null.
        structures: how many of them are taken, at random.
        files: folder for pictures (png, svg), numbers (npz) and Ω on grids (cube); not written if null.
        spacing: of the grids for surfaces and cubes, in Å.

    Raises:
        InputError: for files that cannot be read or molecules that the model cannot take.
    """
    if spacing <= 0.02 or spacing > 1:
        raise InputError(f"spacing must be between 0.02 and 1 Å, got {spacing}")
    if Path(out).is_dir():
        raise InputError(f"{out} is a folder: name the page, such as {out}/report.html")
    check_folder(out)
    report.plotly()  # who has to install it first should not have to wait
    named = read_molecules(molecules)
    paths = saving.model_files(model)
    networks = [saving.load(path) for path in paths]
    network, others = networks[0], networks[1:]
    symbols = trained_probes(network, probes.split(",") if probes else None)
    found, notes = explain_model(network), notes_on(networks)
    pictures, patterns, left_out = _pictures_of_model(found), None, []
    if data is not None:
        some = list(tqdm(batches(network, data, structures), "reading", disable=None))
        half = len(some) // 2
        pictures["environments"] = model_plots.draw_environments(environment_statistics(network, some))
        notes["environments"] = captions.ENVIRONMENTS.format(count=sum(batch.num_graphs for batch in some))
        try:
            patterns = estimate_patterns(network, some[:half])
            pictures["signal_quality"] = model_plots.draw_quality(signal_quality(network, patterns, some[half:]))
        except InputError as error:
            left_out.append(f"patterns: {error}")
    explained = [
        explain_molecule(network, atoms, name, symbols, others, patterns, spacing)
        for name, atoms in tqdm(named.items(), "explaining", disable=None)
    ]
    ends = ranges(symbols, explained)
    for number, each in enumerate(explained):
        pictures |= _pictures_of(report.key_of(number, each), each, symbols, ends)
    title = f"What {paths[0].name} says of {', '.join(named)}"
    page = report.write_report(title, facts_of(paths), found, explained, symbols, ends, pictures, notes)
    with replacing(out) as part:
        part.write_text(page, encoding="utf-8")
    print(f"{out}, {len(page.encode()) / 1e6:.1f} MB, opens in any browser and needs no network")
    for name, reasons in (
        ("the model", left_out + found.left_out),
        *((each.name, each.left_out) for each in explained),
    ):
        for reason in reasons:
            print(f"NOTE {name}: left out {reason}")
    if files is not None:
        write_files(Path(files), network, explained, symbols, pictures, spacing)
        print(f"pictures, numbers and cubes are in {files}")


def read_molecules(molecules: Sequence[str]) -> dict[str, Atoms]:
    """The molecules by name.

    Args:
        molecules: files, or names that ASE knows.

    Raises:
        InputError: for files that cannot be read, or too many molecules.
    """
    named: dict[str, Atoms] = {}
    for text in molecules:
        if not Path(text).is_file() and text in g2.names:
            frames: list[Atoms | InputError] = [ase.build.molecule(text)]
        else:
            frames = list(islice(read_frames(text), MOST + 1))
        for number, atoms in enumerate(frames):
            if isinstance(atoms, InputError):
                raise InputError(f"structure {number} of {text}: {atoms}")
            name = str(atoms.info.get("name", Path(text).stem if len(frames) == 1 else f"{Path(text).stem}-{number}"))
            named[name if name not in named else f"{name}-{len(named)}"] = atoms
    if len(named) > MOST:
        raise InputError(f"more than {MOST} molecules are too many for one page: choose some")
    return named


def batches(model: AtomisticModel, data: MoleculeData, structures: int) -> Iterator[Data]:
    """Batches of molecules at random.

    Args:
        model: decides the edges.
        data: from which they come.
        structures: how many at most.
    """
    if data.molecules is None:
        data.graph = RadiusGraph(model.cutoff, data.graph.backend)
    data.setup("predict")
    molecules = data.molecules
    assert molecules is not None  # there are after the setup
    order = np.random.default_rng(0).permutation(len(molecules))[:structures]
    for chunk in np.array_split(order, max(2, len(order) // 100)):
        yield molecules.batch(chunk)


def facts_of(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """What the report says of the model: file, architecture, training, units.

    Args:
        paths: of the model and of those of other seeds.
    """
    told = saving.describe(paths[0])
    settings = ", ".join(f"{name} {value}" for name, value in told["representation"]["init_args"].items())
    rows = [
        ("file", str(paths[0])),
        ("architecture", f"{told['representation']['class_path'].rpartition('.')[2]}: {settings}"),
        ("preset", told["preset"] or "none of the published variants"),
        ("trained on", ", ".join(told["elements"]) or "nothing"),
        ("cutoff", "none, all pairs" if told["cutoff"] is None else f"{told['cutoff']:g} Å"),
    ]
    summary = told["summary"]
    if "data" in summary:
        rows.append(("data", f"{summary['data']['class']}, {', '.join(summary['data']['files'])}"))
    for stage in ("validation", "test"):
        errors = [f"{n.replace('_', ' ')} {e['value']:.4g} {e['unit']}" for n, e in summary.get(stage, {}).items()]
        rows += [(stage, ", ".join(errors))] if errors else []
    rows += [("compared with", ", ".join(map(str, paths[1:])))] if paths[1:] else []
    return [*rows, ("units", "Å; energies in kcal/mol (1 eV = 23.0605 kcal/mol) unless eV is written; charges in e")]


def notes_on(models: Sequence[AtomisticModel]) -> dict[str, str]:
    """What captions say about the seeds.

    Args:
        models: the explained one first.
    """
    notes = {"spread": "", "correlation": ""}
    if len(models) > 1:
        notes["spread"] = f"; the thin lines are standard deviations over {len(models)} models"
        with contextlib.suppress(InputError):  # without embeddings there is nothing to compare
            values = ", ".join(f"{value:.2f}" for value in rank_correlations(models).with_z)
            notes["correlation"] = f"; rank correlation of PC1 with Z in {len(models)} models: {values}"
    return notes


def write_files(
    folder: Path,
    model: AtomisticModel,
    explained: Sequence[MoleculeExplanation],
    probes: Sequence[str],
    pictures: report.Pictures,
    spacing: float,
) -> None:
    """Pictures, numbers, and Ω on grids for other programs.

    Args:
        folder: for all of them.
        model: for Ω.
        explained: the molecules.
        probes: elements of the probe.
        pictures: by name.
        spacing: of the grids, in Å.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        for kind in ("png", "svg"):
            plots.write(figure, folder / f"{name}.{kind}")
    for number, each in enumerate(explained):
        key = report.key_of(number, each)
        write_npz(folder / f"{key}.npz", arrays(each, probes))
        if each.space is not None:
            grid = grid_around(each.atoms.positions, spacing)
            values = local_chemical_potential(model, each.atoms, grid.points.reshape(-1, 3), probes)
            for probe, value in zip(probes, values, strict=True):
                write_cube(folder / f"{key}_{probe}.cube", each.atoms, grid, value.reshape(grid.shape))


def _pictures_of_model(found: ModelExplanation) -> report.Pictures:
    pictures = {}
    if found.embedding is not None:
        pictures["embedding"] = model_plots.draw_embedding(found.embedding)
    if found.curves is not None:
        pictures["filter_curves"] = model_plots.draw_filter_curves(found.distances, found.curves)
    for number, cuts in enumerate(found.cuts.cuts if found.cuts is not None else [], 1):
        pictures[f"filters_block_{number}"] = model_plots.draw_filters(cuts, EXTENT, number)
    return pictures


def _pictures_of(key: str, each: MoleculeExplanation, probes: Sequence[str], ends: report.Ranges) -> dict[str, Any]:
    names = [f"{chemical_symbols[z]}{index}" for index, z in enumerate(each.atoms.numbers)]
    energies = plots.KCAL * each.contributions.network
    spread = None if each.spread is None else plots.KCAL * each.spread
    label = "network's energy of the atom, kcal/mol"
    pictures = {f"{key}_contributions": plots.draw_contributions(names, each.atoms.numbers, energies, spread, label)}
    if (space := each.space) is not None:
        pictures[f"{key}_planes"] = plots.draw_planes(
            space.planes, HEIGHTS, space.in_planes, probes, ends, each.atoms.positions, each.atoms.numbers
        )
    if each.walks is not None:
        pictures[f"{key}_walks"] = plots.draw_walks(names, each.atoms.numbers, each.walks)
    if each.attribution is not None:
        pictures[f"{key}_attribution"] = plots.draw_attribution(names, each.attribution)
    return pictures
