"""Atom-wise contributions: the shares of the atoms in a predicted energy, and how far seeds agree about them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float, Int
from scipy.stats import rankdata
from torch_geometric.data import Data

from pygschnet.errors import InputError
from pygschnet.graph import molecule_index
from pygschnet.heads import Dipole
from pygschnet.interpret.molecule import graph_of
from pygschnet.model import AtomisticModel, Prediction


class Contributions(NamedTuple):
    """E = Σ_i (network_i + references_i), in eV.

    What it means: the model computes its energy as this sum, from the surroundings of each atom. What it does not
    mean: that an atom in a molecule has this energy. Only the sum has been trained. What one atom gains, such as a
    carbon, its neighbours may lose, such as its hydrogens; another model, as accurate, may divide the energy
    otherwise. So compare seeds (`compare`), and trust what they have in common.

    Attributes:
        z: atomic numbers.
        network: σ·o_i + μ, what the network says.
        references: e0(Z_i), the energies of the isolated atoms that the model adds.
        energy: what the model predicts for the molecule.
        properties: what the other heads give to each atom, by name, in the units of the data; of a `Dipole` its
            latent `charges`, in e, whose sign is arbitrary if it has learnt from magnitudes.
    """

    z: Int[np.ndarray, "atoms"]
    network: Float[np.ndarray, "atoms"]
    references: Float[np.ndarray, "atoms"]
    energy: float
    properties: dict[str, Float[np.ndarray, "atoms"]]

    @property
    def total(self) -> Float[np.ndarray, "atoms"]:
        """Network and references."""
        return self.network + self.references

    @property
    def missing(self) -> float:
        """The energy less the sum of all contributions: nothing but rounding."""
        return self.energy - float(self.total.sum())


class Agreement(NamedTuple):
    """What several models say of one molecule.

    Attributes:
        z: atomic numbers.
        mean: of the models' network contributions, eV.
        spread: their sample standard deviation, eV.
        rank_correlation: Spearman's ρ between the network contributions of each two models.
    """

    z: Int[np.ndarray, "atoms"]
    mean: Float[np.ndarray, "atoms"]
    spread: Float[np.ndarray, "atoms"]
    rank_correlation: Float[np.ndarray, "models models"]


def contributions(model: AtomisticModel, molecule: Atoms | Data) -> Contributions:
    """The share of each atom in the energy: E = Σ_i (σ·o_i + μ + e0(Z_i)).

    For a model whose energy is a mean over the atoms, each share is divided by the number of atoms.

    Args:
        model: a trained model.
        molecule: one structure of ASE, or one PyG `Data`.

    Raises:
        InputError: for structures that the model cannot take, or several at once.

    Source: arXiv:1806.10349.
    """
    data = graph_of(model, molecule)
    network, references, prediction = atomic_parts(model, data)
    if len(prediction.energy) != 1:
        raise InputError(f"contributions are of one molecule at a time, this batch has {len(prediction.energy)}")
    properties = {
        "charges" if isinstance(model.properties[name], Dipole) else name: values.cpu().numpy()
        for name, values in prediction.atomic_properties.items()
    }
    return Contributions(data.z.cpu().numpy(), network, references, prediction.energy.item(), properties)


def atomic_parts(
    model: AtomisticModel, data: Data
) -> tuple[Float[np.ndarray, "atoms"], Float[np.ndarray, "atoms"], Prediction]:
    """Network contributions and references of all atoms, in eV, and the prediction that they are parts of.

    Args:
        model: a trained model.
        data: a graph, or a batch of them, with edges, on the model's device.
    """
    with torch.no_grad():
        prediction = model(data, forces=False)
    references = model.head.references_of(data.z, *molecule_index(data))
    network = prediction.atomic_energies - references
    return network.cpu().numpy(), references.cpu().numpy(), prediction


def group_sums(
    values: Float[np.ndarray, "atoms"], groups: Mapping[str, Sequence[tuple[int, ...]]]
) -> dict[str, Float[np.ndarray, "groups"]]:
    """Sums over groups of atoms, Σ_{i∈g} v_i: more robust than single atoms, for neighbours exchange energy freely.

    Args:
        values: of the atoms: contributions, or anything else that adds up.
        groups: atoms of each group, by name, as from `groups` of a molecule.

    Raises:
        InputError: for an atom that the molecule does not have.
    """
    atoms = [atom for named in groups.values() for group in named for atom in group]
    if atoms and not 0 <= min(atoms) <= max(atoms) < len(values):
        raise InputError(f"the groups name atoms {min(atoms)} to {max(atoms)}, the molecule has {len(values)}")
    return {name: np.array([values[list(group)].sum() for group in named]) for name, named in groups.items()}


def compare(models: Sequence[AtomisticModel], molecule: Atoms | Data) -> Agreement:
    """Mean, spread and rank correlation of the network contributions of several models, such as seeds of one.

    Args:
        models: two or more.
        molecule: one structure, as for `contributions`.

    Raises:
        InputError: for fewer than two models, and as from `contributions`.
    """
    if len(models) < 2:
        raise InputError(f"to compare models takes two or more, got {len(models)}")
    each = [contributions(model, molecule) for model in models]
    network = np.stack([one.network for one in each])
    return Agreement(each[0].z, network.mean(axis=0), network.std(axis=0, ddof=1), rank_correlation(network))


def rank_correlation(values: Float[np.ndarray, "sets items"]) -> Float[np.ndarray, "sets sets"]:
    """Spearman's ρ between each two rows: the correlation of the ranks; NaN for a row whose numbers are all equal.

    Args:
        values: rows of numbers about the same things, such as one row per seed.
    """
    ranks = rankdata(values, axis=1) - (values.shape[1] + 1) / 2
    length = np.linalg.norm(ranks, axis=1)
    length[length == 0] = np.nan
    return ranks @ ranks.T / np.outer(length, length)
