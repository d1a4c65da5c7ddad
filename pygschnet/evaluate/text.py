"""Errors as text: it prints what `summarize` has found."""

from typing import Any

from pygschnet.evaluate.errors import PER_ATOM
from pygschnet.training.report import table

SHOWN = 10
"""Compositions in the text, the commonest."""

CONSTANT = 0.2
"""Energies whose errors scatter by less than this part of their RMSE are said to be off by a constant."""


def as_text(summary: dict[str, Any], part: str) -> str:
    """The summary for people.

    Args:
        summary: from `summarize`.
        part: what was evaluated, such as "test".
    """
    flat = {
        f"{name}_{measure}": {"value": each[measure], "unit": each["unit"]}
        for name, each in summary["errors"].items()
        for measure in ("mae", "rmse")
    }
    lines = [f"{summary['structures']:,} structures of {summary['atoms']:,} atoms", table({part: flat})]
    return "\n".join([*lines, *_elements(summary), *_compositions(summary), *_worst(summary), *_note(summary)])


def _elements(summary: dict[str, Any]) -> list[str]:
    lines = []
    for symbol, found in summary["elements"].items():
        values = [found["forces"][measure] for measure in ("mae", "rmse", "largest")]
        lines.append(_row(symbol, f"{found['atoms']:,}", [f"{1000 * value:.2f}" for value in values]))
    return ["", _row("forces on", "atoms", ["MAE", "RMSE", "largest"]) + "  meV/Å", *lines] if lines else []


def _compositions(summary: dict[str, Any]) -> list[str]:
    shown = [name for name in (PER_ATOM, "forces") if name in summary["errors"]]
    everything = summary["compositions"]
    if not shown or len(everything) == 1:
        return []
    lines = ["", _row("composition", "structures", shown) + "  MAE, meV and meV/Å"]
    for name, found in list(everything.items())[:SHOWN]:
        values = [f"{1000 * found[quantity]['mae']:.2f}" for quantity in shown]
        lines.append(_row(name, f"{found['structures']:,}", values))
    return lines + ([f"  … and {len(everything) - SHOWN:,} more"] if len(everything) > SHOWN else [])


def _worst(summary: dict[str, Any]) -> list[str]:
    lines = [""] if summary["worst"] else []
    for name, found in summary["worst"].items():
        unit = {PER_ATOM: "meV", "forces": "meV/Å RMSE"}[name]
        listed = []
        for one in found:
            of = f"{one['formula']}, " if len(summary["compositions"]) > 1 else ""
            listed.append(f"{one['structure']} ({of}{1000 * one['rmse']:.4g})")
        lines.append(f"  worst {name}, {unit}: {', '.join(listed)}")
    return lines


def _note(summary: dict[str, Any]) -> list[str]:
    """What a large and nearly constant error of the energies means."""
    found = summary["errors"].get(PER_ATOM, {"rmse": 0.0, "mean": 0.0})
    scatter = max(0.0, found["rmse"] ** 2 - found["mean"] ** 2) ** 0.5
    if not scatter < CONSTANT * found["rmse"]:
        return []
    off, spread = f"{1000 * found['mean']:+.4g}", f"{1000 * scatter:.4g}"
    why = "another level of theory, other references, or another unit than was said"
    return ["", f"NOTE the energies are off by {off} meV per atom, give or take {spread}: {why}"]


def _row(name: str, count: str, values: list[str]) -> str:
    return f"  {name:<16}{count:>12}" + "".join(f"{value:>18}" for value in values)
