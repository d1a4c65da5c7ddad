"""Structures and models that several tests use."""

import math
from pathlib import Path

import numpy as np
import torch
from ase.build import bulk, molecule
from hypothesis import strategies as st
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

import pygschnet
from pygschnet import AtomisticModel, Atomwise, RadiusGraph, SchNet
from pygschnet.gdml import GDML
from pygschnet.heads import Elemental, Set2SetReadout, Sum
from pygschnet.representations import DTNN, EnnS2S, SymmetryFunctions, Zeros
from pygschnet.saving import VARIANTS

SHARED = Path(__file__).parents[2] / "shared" / "data"

SCHNETS = (*VARIANTS, "short", "table")
"""The presets; a small model whose cutoff is shorter than most molecules, with a smooth cutoff function; the
last takes its filters from a table, which float64 does not do by itself."""

MODELS = (*SCHNETS, "dtnn", "dtnn_short", "zeros", "wacsf", "acsf", "enn_s2s", "gdml", "sgdml")
"""Every representation; the short ones have a cutoff shorter than most molecules."""


def make_model(name: str) -> AtomisticModel:
    """A model in float64 with random biases and output layer: many laws hold for fresh networks even when broken."""
    if name == "short":
        representation = SchNet(
            16, 12, 2, gaussians=12, gaussian_stop=2.5, gamma=None, cutoff=2.5, cutoff_form="polynomial"
        )
        model = AtomisticModel(representation, Atomwise(16, references={"H": -13.6, "C": -1029.0}))
    elif name == "dtnn_short":
        representation = DTNN(
            16, 12, 2, gaussians=12, gaussian_stop=2.5, gamma=None, cutoff=2.5, cutoff_form="polynomial"
        )
        model = AtomisticModel(representation, Atomwise(16, activation="tanh", references={"H": -13.6, "C": -1029.0}))
    elif name in ("gdml", "sgdml"):
        model = AtomisticModel(GDML(symmetric=name == "sgdml", sigmas=[5.0]), Sum())
        frames = Batch.from_data_list(shuffled_ethanol(12))
        del frames.energy  # too few frames: integrated forces agree so badly with the energies that fit would warn
        model.representation.fit([frames], [])
    elif name == "zeros":
        model = AtomisticModel(Zeros(), Sum(references={"H": -13.6, "C": -1029.0}))
    elif name in ("wacsf", "acsf"):
        model = symmetry_model(weighted=name == "wacsf")
    elif name == "enn_s2s":
        representation = EnnS2S(12, 3, edge_layers=2, edge_hidden=10)
        head = Set2SetReadout(representation.features, 4, 16, scale=20.0, references={"H": -13.6, "C": -1029.0})
        model = AtomisticModel(representation, head)
    else:
        model = pygschnet.preset("schnetpack" if name == "table" else name)
        if isinstance(model.representation, SchNet):
            model.representation.filters_from = "table" if name == "table" else "auto"
    return randomise(model).double().eval()


def symmetry_model(weighted: bool) -> AtomisticModel:
    """Elemental networks, on wACSF of the published parameters or on ACSF with all that those do not have."""
    others = {"radial": 8, "angular": 3, "zetas": [1, 2, 4], "cross_terms": True, "cutoff_form": "polynomial"}
    representation = SymmetryFunctions(weighted, elements=["H", "C", "N", "O"], **({} if weighted else others))
    rng = np.random.default_rng(0)
    many = [jittered(rng, count) for count in range(2, 18)]
    representation.fit([RadiusGraph(representation.cutoff)(Batch.from_data_list(many))], [])
    references = {"H": -13.6, "C": -1029.0}
    return AtomisticModel(
        representation, Elemental(representation.features, ["H", "C", "N", "O"], references=references)
    )


EQUIVALENT = ([0, 1, 2, 3, 4, 5, 7, 8, 6], [0, 1, 2, 3, 5, 4, 6, 8, 7])
"""Generators of the six permutations of ethanol: the methyl group turns; it and its neighbour are mirrored."""


def shuffled_ethanol(frames: int, seed: int = 0) -> list[Data]:
    """Distorted frames with the labels of a random SchNet, their equivalent atoms in random order."""
    model, rng = steep_model(), np.random.default_rng(seed)
    orders = []
    for _ in range(frames):
        order = np.arange(9)
        for generator in rng.integers(0, 2, size=6):
            order = order[EQUIVALENT[generator]]
        orders.append(order)
    molecules = [pygschnet.from_atoms(ethanol(1000 * seed + frame)) for frame in range(frames)]
    prediction = model(batch_of(molecules, model))
    labels = zip(molecules, prediction.energy.detach(), prediction.forces.detach().split(9), orders, strict=True)
    return [
        RadiusGraph(None)(Data(z=data.z, pos=data.pos[order], energy=energy.view(1), forces=forces[order]))
        for data, energy, forces, order in labels
    ]


def suited(molecule: Data, model: AtomisticModel) -> Data:
    """A molecule as it is drawn; for a force field of one molecule that one, with positions as random."""
    if not isinstance(model.representation, GDML):
        return molecule
    atoms = ethanol(seed=int(1e6 * molecule.pos.abs().sum()))
    return Data(z=torch.from_numpy(atoms.numbers).long(), pos=torch.from_numpy(atoms.positions))


def steep_model() -> AtomisticModel:
    """Random, with forces as large as those of molecules."""
    schnet = SchNet(16, 12, 2, gaussians=25, gaussian_stop=5.0, gamma=None, cutoff=5.0, cutoff_form="cosine")
    return randomise(AtomisticModel(schnet, Atomwise(16, scale=20.0)), seed=1).double().eval()


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.7 / math.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def graph(atoms, model: AtomisticModel) -> Data:
    return RadiusGraph(model.cutoff)(pygschnet.from_atoms(atoms))


def ethanol(seed: int = 0):
    atoms = molecule("CH3CH2OH")
    atoms.positions += np.random.default_rng(seed).normal(scale=0.05, size=atoms.positions.shape)
    return atoms


def engine_systems() -> dict:
    """For molecular dynamics: a molecule, and a crystal without symmetry, longer than two processes' halves."""
    crystal = bulk("Si", cubic=True).repeat((3, 1, 1))
    shear = np.array([[0, 0, 0], [0.4, 0, 0], [0.3, -0.5, 0]])
    crystal.set_cell(crystal.cell.array + shear, scale_atoms=True)
    crystal.positions += np.random.default_rng(1).normal(scale=0.05, size=crystal.positions.shape)
    systems = {"molecule": ethanol(), "crystal": crystal}
    for atoms in systems.values():
        atoms.set_velocities(np.random.default_rng(2).normal(scale=0.01, size=atoms.positions.shape))
    return systems


def bare(z: Tensor, pos: Tensor, model: AtomisticModel) -> Data:
    return RadiusGraph(model.cutoff)(Data(z=z, pos=pos))


def batch_of(molecules: list[Data], model: AtomisticModel) -> Batch:
    return RadiusGraph(model.cutoff)(Batch.from_data_list(molecules))


@st.composite
def molecules(draw, low: int = 1, high: int = 8) -> Data:
    """Random atoms, no two closer than 0.5 Å."""
    count = draw(st.integers(low, high))
    return jittered(np.random.default_rng(draw(st.integers(0, 2**32 - 1))), count)


def jittered(rng: np.random.Generator, count: int) -> Data:
    """Atoms on points of a jittered grid."""
    sites = rng.permutation(27)[:count]
    grid = np.stack(np.unravel_index(sites, (3, 3, 3)), axis=-1) * 1.3
    pos = torch.from_numpy(grid + rng.uniform(-0.4, 0.4, (count, 3)))
    return Data(z=torch.from_numpy(rng.choice([1, 6, 7, 8], count)), pos=pos)


@st.composite
def rotations(draw) -> Tensor:
    """Random orthogonal matrices, reflections among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return torch.from_numpy(np.linalg.qr(rng.normal(size=(3, 3)))[0])
