"""What a data set looks like: counts, distributions, neighbours, duplicates, and what is suspicious about it."""

from itertools import pairwise
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from pygschnet.datasets.base import MoleculeData
from pygschnet.datasets.convert import compositions, element_counts, formula
from pygschnet.datasets.splits import SPLITS

QUANTILES = (0.0, 0.01, 0.5, 0.99, 1.0)
BARS = " ▁▂▃▄▅▆▇█"


def summarize(data: MoleculeData) -> dict[str, Any]:
    """Facts about a data set that has been set up, ready for JSON.

    Reads everything and compares the checksums.

    Raises:
        InputError: if the converted file has been damaged.
    """
    store = data.store
    store.verify()
    ptr = store["ptr"]
    elements, counts = element_counts(store)
    composition = compositions(store)
    numbers, first, copies = np.unique(composition, return_index=True, return_counts=True)
    commonest = [(formula(elements, counts[first[k]]), int(copies[k])) for k in np.argsort(-copies, kind="stable")[:5]]
    fields = {
        name: field for name, field in store.metadata["fields"].items() if name not in ("z", "pos", "cell", "pbc")
    }
    per_atom = {"energy per atom": (store["energy"] / np.diff(ptr), "eV")} if "energy" in store else {}
    if "cell" in store:
        volumes = np.abs(np.linalg.det(store["cell"])) / np.diff(ptr)
        per_atom["volume per atom"] = (volumes[store["pbc"].all(1)], "Å³")
    return {
        "file": {"path": str(store.path), "bytes": store.size, "bytes per molecule": store.size / (len(ptr) - 1)},
        "source": store.metadata["source"],
        "molecules": len(ptr) - 1,
        "atoms": int(ptr[-1]),
        "periodic": int(store["pbc"].any(1).sum()) if "pbc" in store else 0,
        "elements": {chemical_symbols[e]: int(n) for e, n in zip(elements, counts.sum(0), strict=True)},
        "compositions": len(numbers),
        "commonest": dict(commonest),
        "split": data.describe_split(),
        "sets": [name.removeprefix("rows.") for name in store if name.startswith("rows.")],
        "words": {kind: known[:20] for kind, known in store.metadata["words"].items()},
        "isolated atoms": data.reference_energies,
        "distributions": {"atoms per molecule": _distribution(np.diff(ptr), "")}
        | {name: _distribution(array, unit) for name, (array, unit) in per_atom.items() if len(array)}
        | {name: _distribution(store[name], field["unit"]) for name, field in fields.items()}
        | _neighbours(data),
        "duplicates": _duplicates(data),
        "suspicions": store.metadata["suspicions"],
    }


def as_text(summary: dict[str, Any]) -> str:
    """The summary for people."""
    file, source, split = summary["file"], summary["source"], summary["split"]
    lines = [
        f"{summary['molecules']:,} structures of {summary['atoms']:,} atoms, {summary['periodic']:,} of them periodic",
        f"read as {source['class']} from {', '.join(source['files'])}",
        f"kept in {file['path']}: {file['bytes'] / 1e6:,.1f} MB, {file['bytes per molecule']:,.0f} bytes each, intact",
        "elements       " + ", ".join(f"{symbol} {count:,}" for symbol, count in summary["elements"].items()),
        f"compositions   {summary['compositions']:,}: "
        + ", ".join(f"{formula} × {count:,}" for formula, count in summary["commonest"].items())
        + (", …" if summary["compositions"] > len(summary["commonest"]) else ""),
        "split          " + ", ".join(f"{name} {split[name]:,}" for name in SPLITS),
    ]
    lines += [f"sets of rows   {', '.join(summary['sets'])}"] if summary["sets"] else []
    lines += [f"words          {kind}: {', '.join(known)}" for kind, known in summary["words"].items()]
    atoms = summary["isolated atoms"]
    lines += [f"isolated atoms {', '.join(f'{s} {e:.4f} eV' for s, e in atoms.items())}"] if atoms else []
    lines += ["", f"{'':24}{'lowest':>12}{'1 %':>12}{'median':>12}{'99 %':>12}{'highest':>12}  distribution"]
    for name, known in summary["distributions"].items():
        values = "".join(f"{value:>12.5g}" for value in known["quantiles"])
        lines.append(f"{name:<24}{values}  {_bars(known['histogram'])}  {known['unit']}")
    lines.append("")
    for what, count in summary["duplicates"].items():
        lines += [f"NOTE {count:,} {what}"] if count else []
    lines += [f"SUSPICIOUS {text}" for text in summary["suspicions"]] or ["no slips of units suspected"]
    return "\n".join(lines)


def _distribution(array: np.ndarray, unit: str) -> dict[str, Any]:
    values = array.reshape(-1)
    if values.dtype.kind == "f":
        values = values[:: max(1, len(values) // 3_000_000)]  # enough for quantiles
    low, high = np.quantile(values, (0.005, 0.995))
    histogram, _ = np.histogram(values, 24, (low, high if high > low else low + 1))
    return {"quantiles": np.quantile(values, QUANTILES).tolist(), "histogram": histogram.tolist(), "unit": unit}


def _neighbours(data: MoleculeData) -> dict[str, Any]:
    """Neighbours per atom within the cutoff, of at most a thousand molecules."""
    if data.molecules is None:
        return {}
    index = np.unique(np.linspace(0, len(data.molecules) - 1, 1000).astype(int))
    counts = [np.zeros(0, np.int64)]
    for part in np.array_split(index, max(1, len(index) // 50)):
        batch = data.molecules.batch(part)
        counts.append(np.bincount(batch.edge_index[1].numpy(), minlength=len(batch.z)))
    return {f"neighbours to {data.graph.cutoff:g} Å": _distribution(np.concatenate(counts), "per atom")}


def _duplicates(data: MoleculeData) -> dict[str, int]:
    """Molecules with the same elements at the same places, to 1e-6 Å."""
    z, ptr = data.store["z"], data.store["ptr"].tolist()
    pos = np.round(data.store["pos"], 6) + 0.0  # no negative zeros
    hashes = np.array([hash(z[a:b].tobytes() + pos[a:b].tobytes()) for a, b in pairwise(ptr)])
    repeated = len(hashes) - len(np.unique(hashes))
    sets = {name: hashes[data.split[name].numpy()] for name in SPLITS}
    known = np.concatenate([sets["train"], sets["val"]])
    return {
        "molecules stand twice": repeated,
        "test molecules stand in the training or validation set too": int(np.isin(sets["test"], known).sum()),
    }


def _bars(histogram: list[int]) -> str:
    top = max(histogram) or 1
    return "".join(BARS[-(-count * (len(BARS) - 1) // top)] for count in histogram)
