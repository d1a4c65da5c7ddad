"""Radial distribution functions of simulated water against those of the reference frames.

    python experiments/water/rdf.py runs/water-md ../shared/data/pbc_deepmd_water/water192_400.npz

draws rdf.png into the folder of the simulation, and prints and writes how far the two are apart.
"""

import argparse
import json
from pathlib import Path

import ase.io
import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms
from vesin import NeighborList

BINS = np.linspace(0.6, 6.0, 109)  # Å, half of the cell
PAIRS = ("OO", "OH", "HH")


def distribution(frames: list[Atoms], pair: str) -> np.ndarray:
    """g(r) of two elements: pairs found over pairs expected at the same density."""
    found = np.zeros(len(BINS) - 1)
    expected = np.zeros(len(BINS) - 1)
    shells = 4 / 3 * np.pi * np.diff(BINS**3)
    search = NeighborList(cutoff=BINS[-1], full_list=True)
    for atoms in frames:
        i, j, distances = search.compute(atoms.positions, atoms.cell.array, True, "ijd")
        symbols = np.array(atoms.get_chemical_symbols())
        chosen = (symbols[i] == pair[0]) & (symbols[j] == pair[1])
        found += np.histogram(distances[chosen], BINS)[0]
        numbers = [np.count_nonzero(symbols == symbol) for symbol in pair]
        expected += numbers[0] * (numbers[1] - (pair[0] == pair[1])) / atoms.get_volume() * shells
    return found / expected


def reference_frames(path: Path) -> list[Atoms]:
    with np.load(path) as file:
        return [Atoms(file["Z"], p, cell=c, pbc=True) for p, c in zip(file["R"], file["cell"], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("simulation", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--skip", type=float, default=0.2, help="part of the simulation that is left out")
    options = parser.parse_args()
    frames = ase.io.read(options.simulation / "trajectory.extxyz", ":")
    frames, reference = frames[int(options.skip * len(frames)) :], reference_frames(options.reference)
    middle, facts = (BINS[1:] + BINS[:-1]) / 2, {"frames": len(frames), "reference_frames": len(reference)}
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for panel, pair in zip(panels, PAIRS, strict=True):
        theirs, ours = distribution(reference, pair), distribution(frames, pair)
        panel.plot(middle, theirs, color="black", linewidth=1, label=f"{len(reference)} reference frames")
        panel.plot(
            middle, ours, color="C3", linewidth=1, linestyle="--", label=f"{len(frames)} frames of the simulation"
        )
        panel.set(xlabel=f"{pair[0]}–{pair[1]} distance, Å", ylabel="g(r)", ylim=(0, 4 if pair != "HH" else 3))
        panel.grid(alpha=0.3)
        outside = middle > 2.0 if pair == "OO" else middle > 1.3 if pair == "OH" else middle > 1.9  # between molecules
        facts[pair] = {
            "mean_absolute_difference": round(float(np.abs(ours - theirs)[outside].mean()), 4),
            "first_peak_A": [round(float(middle[outside][np.argmax(g[outside])]), 3) for g in (theirs, ours)],
            "first_peak_height": [round(float(g[outside].max()), 3) for g in (theirs, ours)],
        }
    panels[0].legend(fontsize=8)
    figure.savefig(options.simulation / "rdf.png", dpi=130)
    (options.simulation / "rdf.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
