"""Errors against time, and against the number of training molecules.

    python -m experiments.figures.curves time --out time.png
    python -m experiments.figures.curves molecules --out molecules.png

The first shows validation errors of the trainings on MD17's ethanol, from experiments/results/curves.json; minutes are
steps times the mean time of a step, on one core. `experiments/benchmarks/peer_training.py` adds SchNetPack's network.
The second shows test errors on QM9's electronic energies, from experiments/results/qm9.json.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullLocator

from experiments.runs import RESULTS

GOAL = {"energy_mae": 0.08, "forces_mae": 0.39}
"""arXiv:1706.08566, Table 2: ethanol, N = 1,000, energies and forces."""
PUBLISHED = {50_000: 0.59, 100_000: 0.34, 110_000: 0.31}
"""arXiv:1706.08566, Table 1: U0, in kcal/mol, to convergence."""
UNITS = {"energy_mae": "energies, kcal/mol", "forces_mae": "forces, kcal/mol/Å"}


def rows(name: str) -> list[dict]:
    return json.loads((RESULTS / f"{name}.json").read_text())["rows"]


def minutes(curve: dict) -> list[float]:
    return [step * curve["seconds_per_step"] / 60 for step in curve["step"]]


def reached(curve: dict) -> float | None:
    """Minutes until both errors are those of the paper, and stay there."""
    last = None
    for minute, energy, forces in zip(minutes(curve), curve["energy_mae"], curve["forces_mae"], strict=True):
        good = energy <= GOAL["energy_mae"] and forces <= GOAL["forces_mae"]
        last = (last or minute) if good else None
    return last


def of_ethanol() -> dict[str, dict]:
    """The trainings on energies and forces of MD17's ethanol, first split and seed."""
    found = {}
    for curve in rows("curves"):
        same = [curve[name] for name in ("molecule", "labels", "split", "seed")] == ["ethanol", "md17", "01", 1]
        if same and "energies only" not in curve["recipe"]:
            name = curve["recipe"] if "steps" in curve["recipe"] else f"{curve['recipe']}, {curve['step'][-1]:,} steps"
            found[name] = curve
    return found


def plain(axis: Axis) -> None:
    """Numbers without powers along a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def time(axes: list[Axes]) -> None:
    colours: dict[str, str] = {}
    for name, curve in of_ethanol().items():
        ours = name.removesuffix(", SchNetPack")
        colour, style = colours.setdefault(ours, f"C{len(colours)}"), "-" if name == ours else "--"
        for axis, kind in zip(axes, UNITS, strict=True):
            axis.plot(minutes(curve), curve[kind], color=colour, linestyle=style, label=name)
    for axis, kind in zip(axes, UNITS, strict=True):
        axis.axhline(GOAL[kind], color="black", linestyle=":", label="the paper")
        axis.set(xscale="log", yscale="log", xlabel="minutes of one core", ylabel=f"validation MAE,\n{UNITS[kind]}")
        plain(axis.xaxis)
        plain(axis.yaxis)
    lines, labels = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(lines, labels, loc="outside lower center", ncols=2, fontsize="small")


def molecules(axes: list[Axes]) -> None:
    found = rows("qm9")
    for steps in sorted({row["steps"] for row in found}):
        here = sorted((row["molecules"], row["energy_mae"]) for row in found if row["steps"] == steps)
        axes[0].plot(*zip(*here, strict=True), "o-", label=f"electronic energy, {steps:,} steps")
    axes[0].plot(*zip(*PUBLISHED.items(), strict=True), "s", color="gray", label="the paper, U0, to convergence")
    axes[0].set(xscale="log", yscale="log", xlabel="training molecules of QM9", ylabel="test MAE, kcal/mol")
    plain(axes[0].yaxis)
    axes[0].legend()


PICTURES = {"time": (time, 2), "molecules": (molecules, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", choices=list(PICTURES))
    parser.add_argument("--out", type=Path, default=Path("curves.png"))
    options = parser.parse_args()
    draw, panels = PICTURES[options.picture]
    figure, axes = plt.subplots(1, panels, figsize=(4.5 * panels, 4), layout="constrained", squeeze=False)
    draw(list(axes[0]))
    figure.savefig(options.out, dpi=150)
    print(f"{options.out} is drawn")


if __name__ == "__main__":
    main()
