"""How far a program is from the model it was made of, and how many knots its table needs."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import Data

from pygschnet.errors import InputError
from pygschnet.export.program import Outputs, Program
from pygschnet.graph import RadiusGraph, edge_offsets
from pygschnet.model import AtomisticModel
from pygschnet.nn.table import Knots
from pygschnet.representations import SchNet

SKIN = 0.5
"""Å by which the neighbour lists that programs are given reach beyond the cutoff."""

KNOTS_PER_WIDTH = (5, 7, 10, 14, 20)
"""Knots per standard deviation of the Gaussians that are tried; the error falls with the sixth power."""

MARGIN = 2.0
"""How far below the bound the measured error must be: other structures may have larger ones."""


class Case(NamedTuple):
    """A structure, and what the model says about it with filters from the networks, everything in float64.

    Attributes:
        inputs: of a program, with edges beyond the cutoff.
        outputs: that it should give.
    """

    inputs: tuple[Tensor, Tensor, Tensor, Tensor]
    outputs: Outputs


class Deviation(NamedTuple):
    """The largest of each quantity over some structures.

    Attributes:
        energy: eV per atom.
        forces: of a component, eV/Å.
        virial: of a component, eV per atom.
    """

    energy: float
    forces: float
    virial: float


def inputs(data: Data) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a program takes, of a graph with edges: z, pos, edge_index and offsets."""
    offsets = edge_offsets(data)[1] if "edge_shift" in data else data.pos.new_zeros(data.edge_index.shape[1], 3)
    return data.z, data.pos.double(), data.edge_index, offsets.double()


@torch.no_grad()
def cases(model: AtomisticModel, structures: Sequence[Data]) -> list[Case]:
    """Structures without edges, with the model's answers.

    Raises:
        InputError: for elements that the model was not trained on, and what else it refuses.
    """
    model = copy.deepcopy(model).double().eval()
    model.representation.filters_from = "edges"  # type: ignore[assignment]
    found = []
    for structure in structures:
        if model.cutoff is None and "cell" in structure:
            raise InputError("the model has no cutoff, so it cannot take the periodic structures of the data")
        graph = RadiusGraph(model.cutoff)(structure)
        prediction = model(graph, stress="cell" in graph)
        if prediction.stress is None:
            virial = prediction.forces.T @ graph.pos
        else:
            virial = -prediction.stress[0] * torch.linalg.det(graph.cell[0]).abs()
        outputs = (prediction.energy[0], prediction.atomic_energies, prediction.forces, virial)
        wider = RadiusGraph(None if model.cutoff is None else model.cutoff + SKIN)(structure)
        found.append(Case(inputs(wider), outputs))
    return found


def deviation(program: Callable[..., Sequence[Tensor]], cases: Sequence[Case]) -> Deviation:
    """By how much a program differs from the model; infinite where it gives no numbers."""
    differences = []
    for case in cases:
        found, (energy, atomic, forces, virial) = program(*case.inputs), case.outputs
        atoms = len(atomic)
        differences.append(
            (
                max(_largest(found[0] - energy) / atoms, _largest(found[1] - atomic)),
                _largest(found[2] - forces),
                _largest(found[3] - virial) / atoms,
            )
        )
    return Deviation(*(max(column) for column in zip(*differences, strict=True)))


def sizes(model: AtomisticModel, cases: Sequence[Case]) -> Deviation:
    """How large the quantities themselves are, energies without what is added to the network's output."""
    constant = (model.head.mu + model.head.reference_energies).double()
    parts = [
        (_largest(atomic - constant[case.inputs[0]]), _largest(forces), _largest(virial) / len(atomic))
        for case in cases
        for _, atomic, forces, virial in [case.outputs]
    ]
    return Deviation(*(max(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def choose_knots(model: AtomisticModel, cases: Sequence[Case], error: float) -> tuple[Knots, Deviation]:
    """The fewest knots whose table keeps energies within a bound, and the deviation with them, in float64.

    Args:
        model: SchNet with an `Atomwise` head.
        cases: what is measured on.
        error: the bound, in eV per atom; the measured error will be half of it or less.

    Raises:
        InputError: if no table is as exact as that, saying which bound could be kept.
    """
    representation = model.representation
    assert isinstance(representation, SchNet)
    basis, attained = representation.basis, []
    for per_width in KNOTS_PER_WIDTH:
        knots = Knots.between(0.0, model.cutoff or basis.end, basis, per_width)
        found = deviation(Program(model, knots, torch.float64), cases)
        if MARGIN * found.energy <= error:
            return knots, found
        attained.append(found.energy)
    raise InputError(
        f"a table cannot give the energies of this model to {error:.1e} eV per atom: on {len(cases)} structures it was "
        f"off by {', '.join(f'{value:.1e}' for value in attained)} with {', '.join(map(str, KNOTS_PER_WIDTH))} knots "
        f"per standard deviation of the Gaussians, and half the bound is asked for. Allow {MARGIN * min(attained):.1e}"
    )


def _largest(x: Tensor) -> float:
    return float(x.abs().nan_to_num(math.inf).max())
