"""Fig. 1 of arXiv:1706.08566: a filter on a grid against a continuous one, along a bond that is stretched.

    python -m experiments.figures.discrete runs/md17/ethanol-paper/model.safetensors --out fig1.png

Takes a model trained on ethanol. Its filters, rounded to the nearest of the grid's distances, are what a convolution on
a grid would know; the energy then jumps where an atom passes from one cell to the next.
"""

import argparse
import copy
from pathlib import Path

import ase.build
import matplotlib.pyplot as plt
import numpy as np
import torch

import pygschnet
from pygschnet.nn import GaussianBasis
from pygschnet.units import unit_factor

CELL = 0.2
"""Width of a cell of the grid, in Å."""


class OnGrid(GaussianBasis):
    """The Gaussians at the nearest point of a grid."""

    def forward(self, distances, reach=slice(None)):
        return super().forward(torch.round(distances / CELL) * CELL, reach)

    def reach(self, distances):
        return slice(None)


def on_grid(model: pygschnet.AtomisticModel) -> pygschnet.AtomisticModel:
    """The same model with filters that know distances to the width of a cell only."""
    coarse = copy.deepcopy(model)
    basis = model.representation.basis
    coarse.representation.basis = OnGrid(basis.start, basis.stop, basis.count, basis.gamma)
    coarse.representation.filters_from = "pairs"
    return coarse


def stretched(lengths: np.ndarray) -> list[ase.Atoms]:
    """Ethanols whose bond between oxygen and carbon has these lengths, in Å."""
    atoms = ase.build.molecule("CH3CH2OH")
    carbon, oxygen = atoms.symbols.search("C"), atoms.symbols.search("O")[0]
    bonded = min(carbon, key=lambda index: atoms.get_distance(index, oxygen))
    hydroxyl = [oxygen, min(atoms.symbols.search("H"), key=lambda index: atoms.get_distance(index, oxygen))]
    axis = atoms.get_distance(bonded, oxygen, vector=True)
    start, molecules = np.linalg.norm(axis), []
    for length in lengths:
        molecules.append(atoms.copy())
        molecules[-1].positions[hydroxyl] += axis / start * (length - start)
    return molecules


def energies(model: pygschnet.AtomisticModel, molecules: list[ase.Atoms]) -> np.ndarray:
    """In kcal/mol, the lowest zero."""
    graph = pygschnet.RadiusGraph(model.cutoff)
    with torch.no_grad():
        found = [model(graph(pygschnet.from_atoms(atoms)), forces=False).energy.item() for atoms in molecules]
    return (np.array(found) - min(found)) / unit_factor("kcal/mol")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, default=Path("fig1.png"))
    parser.add_argument("--filter", type=int, default=0, help="which filter of the first block to draw")
    options = parser.parse_args()
    continuous = pygschnet.load(options.model)
    models = {f"filter on a grid of {CELL} Å": on_grid(continuous), "continuous filter": continuous}
    lengths = np.linspace(1.25, 1.65, 401)
    figure, axes = plt.subplots(2, 2, figsize=(8, 5), sharex="row", sharey="row", layout="constrained")
    distances = torch.linspace(0.7, 3.0, 1001)
    for column, (name, model) in zip(axes.T, models.items(), strict=True):
        with torch.no_grad():
            filters = next(iter(model.representation.filters_at(distances)))
        column[0].set_title(name)
        column[0].plot(distances, filters[:, options.filter])
        column[0].set_xlabel("distance, Å")
        column[1].plot(lengths, energies(model, stretched(lengths)))
        column[1].set_xlabel("length of the C–O bond, Å")
    axes[0, 0].set_ylabel("W, one filter of the first block")
    axes[1, 0].set_ylabel("energy, kcal/mol")
    figure.savefig(options.out, dpi=150)
    print(f"{options.out} is drawn")


if __name__ == "__main__":
    main()
