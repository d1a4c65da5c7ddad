"""One HTML file with everything that was explained, which opens without a network. It computes nothing."""

import base64
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from pygschnet.errors import InputError
from pygschnet.interpret import captions, plots
from pygschnet.interpret.contributions import group_sums
from pygschnet.interpret.explanation import EXTENT, LEVEL, ModelExplanation, MoleculeExplanation
from pygschnet.interpret.plots import KCAL
from pygschnet.interpret.space import plane

Ranges = Mapping[str, tuple[float, float]]
Pictures = dict[str, Figure]


def write_report(
    title: str,
    facts: Sequence[tuple[str, str]],
    model: ModelExplanation,
    molecules: Sequence[MoleculeExplanation],
    probes: Sequence[str],
    ranges: Ranges,
    pictures: Pictures,
    notes: Mapping[str, str],
) -> str:
    """The report as HTML.

    Args:
        title: of the page.
        facts: names and values of what the model is.
        model: embeddings and filters.
        molecules: what the model says of each.
        probes: elements of the probe.
        ranges: of Ω, in eV, by probe.
        pictures: all pictures, by name.
        notes: what captions say besides: "spread", "correlation" and, with statistics, "environments".
    """
    links = " ".join(f'<a href="#molecule-{n}">{html.escape(each.name)}</a>' for n, each in enumerate(molecules))
    body = [f"<h1>{html.escape(title)}</h1>", f'<nav>{links} <a href="#model">the model</a></nav>']
    body += ["<h3>The model and its units</h3>", _table(["", ""], [[name, value] for name, value in facts], words=2)]
    for number, molecule in enumerate(molecules):
        body += _molecule(number, molecule, probes, ranges, pictures, notes)
    body += _model(model, pictures, notes)
    scale = [[share / 16, to_hex(colormaps[plots.SCALE](share / 16))] for share in range(17)]
    elements = sorted({int(z) for molecule in molecules for z in molecule.atoms.numbers})
    colours = {chemical_symbols[z]: to_hex(jmol_colors[z]) for z in elements}
    page = Template(files("pygschnet.interpret").joinpath("report.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=html.escape(title),
        body="\n".join(body),
        plotly=plotly(),
        molecules=_json([_scene(molecule, molecules, probes, ranges) for molecule in molecules]),
        colours=_json(colours),
        scale=_json(scale),
    )


def plotly() -> str:
    """The script that draws molecules in the browser.

    Raises:
        InputError: if plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise InputError("the report needs plotly: pip install plotly") from None
    return get_plotlyjs()


def key_of(number: int, molecule: MoleculeExplanation) -> str:
    """What pictures and files of a molecule begin with.

    Args:
        number: of the molecule in the report.
        molecule: that molecule.
    """
    plain = re.sub(r"[^\w.-]+", "_", molecule.name)
    return f"{number}_{plain}"


def _molecule(
    number: int,
    molecule: MoleculeExplanation,
    probes: Sequence[str],
    ranges: Ranges,
    pictures: Pictures,
    notes: Mapping[str, str],
) -> list[str]:
    key = key_of(number, molecule)
    energies = molecule.contributions
    about = ", ".join(
        f"Ω of {probe} {KCAL * low:.1f} to {KCAL * high:.1f} kcal/mol" for probe, (low, high) in ranges.items()
    )
    scene = captions.SCENE.format(level=LEVEL, ranges=about or "no surfaces here")
    parts = [
        f'<section id="molecule-{number}"><h2>{html.escape(molecule.name)}</h2>',
        f"<p>{molecule.atoms.get_chemical_formula()}, predicted energy {energies.energy:.4f} eV</p>",
        f'<figure id="figure-{number}-scene"><div class="views" id="views-{number}" role="group" '
        f'aria-label="what is shown"></div><div class="scene" id="scene-{number}" role="img" '
        f'aria-label="{html.escape(molecule.name)}, a molecule that can be turned"></div>'
        f"<figcaption>{scene}</figcaption></figure>",
        _picture(pictures, f"{key}_contributions", captions.CONTRIBUTIONS.format(spread=notes["spread"])),
        _atoms(molecule),
        f"<p>Missing in the sum: {energies.missing:.1e} eV of {energies.energy:.4f} eV.",
        captions.SENSITIVITY if molecule.sensitivity is not None else "",
        captions.CHARGES if "charges" in energies.properties else "",
        "</p>",
    ]
    if molecule.groups:
        parts += [_groups(molecule), f"<p>{captions.GROUPS}</p>"]
    if molecule.space is not None:
        parts.append(_picture(pictures, f"{key}_planes", captions.PLANES))
    if molecule.walks is not None:
        walks = molecule.walks
        said = captions.WALKS.format(bias=f"{KCAL * walks.bias:.2f}", energy=f"{KCAL * walks.energy:.2f}")
        parts.append(_picture(pictures, f"{key}_walks", said))
    if molecule.attribution is not None and molecule.attribution.missing is not None:
        missing = f"{KCAL * float(np.abs(molecule.attribution.missing).max()):.0e}"
        parts.append(_picture(pictures, f"{key}_attribution", captions.ATTRIBUTION.format(missing=missing)))
    parts += [f"<p>Not shown: {html.escape(reason)}.</p>" for reason in molecule.left_out]
    times = ", ".join(f"{part} {seconds:.2g} s" for part, seconds in molecule.seconds.items())
    return [*parts, f"<p>Computed in: {times}.</p></section>"]


def _model(model: ModelExplanation, pictures: Pictures, notes: Mapping[str, str]) -> list[str]:
    parts = ['<section id="model"><h2>The model</h2>', '<div class="pictures">']
    if model.embedding is not None:
        count = len(model.embedding.elements)
        said = captions.EMBEDDING.format(count=count, correlation=notes["correlation"])
        parts.append(_picture(pictures, "embedding", said))
    if "signal_quality" in pictures:
        parts.append(_picture(pictures, "signal_quality", captions.QUALITY))
    parts.append("</div>")
    if "environments" in pictures:
        parts.append(_picture(pictures, "environments", notes["environments"]))
    if model.cuts is not None:
        final = captions.ENDS_WITH_SSP if model.cuts.bounded else captions.ENDS_LINEAR
        parts.append(_picture(pictures, "filter_curves", captions.FILTERS.format(extent=EXTENT, final=final)))
    parts.append('<div class="pictures">')
    parts += [_picture(pictures, name, "") for name in pictures if name.startswith("filters_block")]
    parts.append("</div>")
    parts += [f"<p>Not shown: {html.escape(reason)}.</p>" for reason in model.left_out]
    return [*parts, "</section>"]


def _atoms(molecule: MoleculeExplanation) -> str:
    found = molecule.contributions
    columns = [("network, kcal/mol", KCAL * found.network, 2)]
    if molecule.spread is not None:
        columns.append(("± over seeds", KCAL * molecule.spread, 2))
    columns += [("reference, eV", found.references, 4), ("sum, eV", found.total, 4)]
    if molecule.sensitivity is not None:
        columns.append(("sensitivity, kcal/mol", KCAL * molecule.sensitivity, 2))
    if molecule.walks is not None:
        columns.append(("walks from it, kcal/mol", KCAL * molecule.walks.of_atoms(), 2))
    columns += [(name, values, 4) for name, values in found.properties.items()]
    words = molecule.environments or [""] * len(molecule.atoms)
    rows = []
    for index, symbol in enumerate(molecule.atoms.symbols):
        cells = [f"{values[index]:.{digits}f}" for _, values, digits in columns]
        rows.append([f"{symbol}{index}", words[index], *cells])
    return _table(["atom", "environment", *(name for name, *_ in columns)], rows, words=2)


def _groups(molecule: MoleculeExplanation) -> str:
    rows = []
    for name, sums in group_sums(KCAL * molecule.contributions.network, molecule.groups).items():
        for atoms, total in zip(molecule.groups[name], sums, strict=True):
            rows.append([name, " ".join(f"{molecule.atoms.symbols[a]}{a}" for a in atoms), f"{total:.2f}"])
    return _table(["group", "atoms", "network, kcal/mol"], rows, words=2)


def _scene(
    molecule: MoleculeExplanation, molecules: Sequence[MoleculeExplanation], probes: Sequence[str], ranges: Ranges
) -> dict[str, Any]:
    """What the page needs to draw a molecule."""

    def on_atoms(name: str, unit: str, digits: int, of: Any) -> dict[str, Any]:
        everywhere = np.concatenate([of(each) for each in molecules if of(each) is not None])
        low, high = float(everywhere.min()), float(everywhere.max())
        values = _packed(of(molecule), "<f4")
        return {"name": name, "on": "atoms", "unit": unit, "digits": digits, "values": values, "low": low, "high": high}

    numbers = molecule.atoms.numbers
    views = [on_atoms("energies of the atoms", "kcal/mol", 1, lambda each: KCAL * each.contributions.network)]
    for name in molecule.contributions.properties:
        unit = "e" if name == "charges" else ""
        views.append(on_atoms(name, unit, 2, lambda each, name=name: each.contributions.properties[name]))
    if molecule.walks is not None:
        of = lambda each: None if each.walks is None else KCAL * each.walks.of_atoms()  # noqa: E731
        views.append(on_atoms("walks from each atom", "kcal/mol", 1, of))
    scene: dict[str, Any] = {
        "name": molecule.name,
        "symbols": list(molecule.atoms.symbols),
        "labels": [
            f"{symbol}{index} {words}"
            for index, (symbol, words) in enumerate(
                zip(molecule.atoms.symbols, molecule.environments or [""] * len(numbers), strict=True)
            )
        ],
        "sizes": [round(9 + 14 * covalent_radii[z]) for z in numbers],
        "bonds": molecule.bonds.tolist(),
    }
    flat = plane(molecule.atoms.positions)
    scene["pos"] = _packed(flat.coordinates(molecule.atoms.positions), "<f4")
    if (space := molecule.space) is not None:
        vertices = _packed(flat.coordinates(space.surface.vertices), "<f4")
        scene["surface"] = {"points": vertices, "faces": _packed(space.surface.faces, "<u4")}
        for probe, values in zip(probes, space.on_surface, strict=True):
            low, high = ranges[probe]
            view = {"name": f"Ω of {probe}", "on": "surface", "unit": "kcal/mol", "digits": 1}
            views.append({**view, "values": _packed(KCAL * values, "<f4"), "low": KCAL * low, "high": KCAL * high})
    return {**scene, "views": views}


def _picture(pictures: Pictures, name: str, caption: str) -> str:
    buffer = io.BytesIO()
    pictures[name].savefig(buffer, format="webp", dpi=96, pil_kwargs={"quality": 75, "method": 6})
    source = base64.b64encode(buffer.getvalue()).decode()
    label = html.escape(name.replace("_", " "))
    image = f'<img alt="{label}" src="data:image/webp;base64,{source}">'
    return f'<figure id="figure-{html.escape(name)}">{image}<figcaption>{caption}</figcaption></figure>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> str:
    """A table whose first columns are words."""
    cells = [
        "<tr>"
        + "".join(
            f"<td{' class=words' if 0 < column < words else ''}>{html.escape(cell)}</td>"
            for column, cell in enumerate(row)
        )
        for row in rows
    ]
    head = "".join(
        f"<th{' class=words' if column < words else ''}>{html.escape(name)}</th>" for column, name in enumerate(heads)
    )
    first = f"<tr>{head}</tr>" if any(heads) else ""
    return f'<div class="table" tabindex="0"><table>{first}{"".join(cells)}</table></div>'


def _packed(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode()


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
