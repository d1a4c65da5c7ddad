"""Errors by quantity, element, composition and structure, ready for JSON."""

from typing import Any

import numpy as np
from ase.data import chemical_symbols

from pygschnet.datasets import MoleculeData
from pygschnet.datasets.convert import compositions, element_counts, formula
from pygschnet.evaluate.errors import PER_ATOM, Evaluation, Sums

WORST = 5
"""Structures that are named."""


def summarize(evaluation: Evaluation, data: MoleculeData) -> dict[str, Any]:
    """The errors of an evaluation as numbers with units.

    Args:
        evaluation: of a model.
        data: on which it was evaluated.
    """
    sums, index = evaluation.sums, evaluation.index
    elements, counts = element_counts(data.store)
    of_each = compositions(data.store)[index]
    numbers, first, copies = np.unique(of_each, return_index=True, return_counts=True)
    formulas = [formula(elements, counts[index[k]]) for k in first]
    by_size = np.argsort(-copies, kind="stable")
    units = {name: evaluation.units.get(name, "") for name in sums}
    forces = {chemical_symbols[z]: z for z in np.flatnonzero(evaluation.elements.count)}
    names = dict(zip(numbers.tolist(), formulas, strict=True))
    order = np.argsort(of_each, kind="stable")
    members = dict(zip(numbers.tolist(), np.split(order, np.cumsum(copies)[:-1]), strict=True))
    return {
        "structures": len(index),
        "atoms": int(np.diff(data.store["ptr"])[index].sum()),
        "errors": {name: _measures(each, units[name]) for name, each in sums.items()},
        "elements": {
            symbol: {
                "atoms": int(evaluation.elements.count[z]) // 3,
                "forces": _measures(evaluation.elements, units["forces"], np.array([z])),
            }
            for symbol, z in forces.items()
        },
        "compositions": {
            formulas[k]: {"structures": int(copies[k])}
            | {name: _measures(each, units[name], members[int(numbers[k])]) for name, each in sums.items()}
            for k in by_size
        },
        "worst": {
            name: [
                {"structure": int(index[k]), "formula": names[int(of_each[k])], "rmse": float(values[k])}
                for k in np.argsort(-values, kind="stable")[:WORST]
            ]
            for name, values in ((name, _rmse(sums[name])) for name in (PER_ATOM, "forces") if name in sums)
        },
    }


def _measures(sums: Sums, unit: str, groups: np.ndarray | slice = slice(None)) -> dict[str, Any]:
    return {**sums.over(groups), "unit": unit, "count": int(sums.count[groups].sum())}


def _rmse(sums: Sums) -> np.ndarray:
    return np.sqrt(sums.square / np.maximum(sums.count, 1))
