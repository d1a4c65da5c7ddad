"""The ASE calculator: energies, forces and stress of a trained model, or of several with their spread."""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator as ASECalculator
from ase.calculators.calculator import all_changes
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from pygschnet.errors import InputError
from pygschnet.heads import Dipole
from pygschnet.model import AtomisticModel, Prediction
from pygschnet.neighbours import Neighbours
from pygschnet.saving import load

Model = AtomisticModel | str | Path

ROUNDING = 1e-5
"""Relative difference of distances that means nothing: files have few digits."""


class Calculator(ASECalculator):
    """A model as an ASE calculator: for optimisers, molecular dynamics, phonons, NEB and everything else of ASE.

    `results` hold energy, free_energy, energies (of the atoms), forces and, once it has been asked for, stress, in eV
    and Å; the properties of further heads by their names, in the units they were trained on; with a `Dipole` head
    `charges`, in e, and, unless it gives magnitudes, `dipole`, in e·Å; `too_close`, a bool for every atom that is
    nearer to another one than any such two in training; and of several models the means, with `energy_std`,
    `energies_std`, `forces_std` and so on, the sample standard deviations.

    The charge of the system is `atoms.info["charge"]`, 0 if it is not there.

    Args:
        model: a model, of which a copy is taken, or a model file; several make a committee.
        device: where to compute.
        dtype: precision of the networks, that of the model if null. Positions and energies are in float64 anyway.
        skin: how much further than the cutoff neighbours are searched, in Å; they are searched for again when atoms
            have moved by half of it.

    Raises:
        InputError: for models that differ in their cutoff or their properties, and in use for elements that were not
            in the training data, atoms on the same spot, a missing cell, or the stress of what is not a crystal.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012, as in ASE

    def __init__(
        self,
        model: Model | Sequence[Model],
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        skin: float = 0.5,
    ):
        super().__init__()
        given = [model] if isinstance(model, Model) else list(model)
        models = [copy.deepcopy(each) if isinstance(each, AtomisticModel) else load(each) for each in given]
        if not models:
            raise InputError("a committee needs at least one model")
        if len({(each.cutoff, *each.properties) for each in models}) > 1:
            raise InputError("the models of a committee must have the same cutoff and properties")
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"there is no device {device}: {str(error).splitlines()[0]}") from None
        self._dipole = _dipole_head(models[0])
        if self._dipole is not None:
            vector = not models[0].properties[self._dipole].magnitude
            self.implemented_properties = [*self.implemented_properties, "charges", *["dipole"] * vector]
        self.models = [each.to(device=device, dtype=dtype).eval() for each in models]
        self.neighbours = Neighbours(models[0].cutoff, skin, device)
        self.closest = torch.stack([each.closest for each in models]).amax(0)
        self._stress = self._warned = False

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute everything at once; see `Calculator`."""
        if atoms is not None and self.check_state(atoms):
            self.atoms = atoms.copy()
        # who has asked for the stress once will ask again
        self._stress = "stress" in properties or (self._stress and bool(self.atoms.cell.rank == 3))
        if self._stress and self.atoms.cell.rank < 3:
            raise InputError("stress needs a cell of three lattice vectors, and this system has none")
        data, distances = self.neighbours.graph(self.atoms)
        with torch.no_grad():
            predictions = [model(data, stress=self._stress) for model in self.models]
        self.results = _mean_and_spread([self._results(prediction) for prediction in predictions])
        self.results["free_energy"] = self.results["energy"]
        self.results["too_close"] = self._too_close(data.z, data.edge_index, distances)

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """What has changed since the last calculation, of what matters; ASE's own takes as long as a small model."""
        if self.atoms is None:
            return list(all_changes)
        now, then = atoms.arrays, self.atoms.arrays
        changes = [name for name in ("positions", "numbers") if not np.array_equal(now[name], then[name])]
        changes += ["charge"] * (atoms.info.get("charge", 0) != self.atoms.info.get("charge", 0))
        changes += ["cell"] * (not np.array_equal(atoms.cell.array, self.atoms.cell.array))
        return changes + ["pbc"] * (not np.array_equal(atoms.pbc, self.atoms.pbc))

    def _results(self, prediction: Prediction) -> dict[str, Any]:
        """A prediction as ASE wants it."""
        results = {name: values[0] for name, values in prediction.properties.items()}
        results |= {"energy": prediction.energy[0], "energies": prediction.atomic_energies}
        results["forces"] = prediction.forces.double()
        if self._dipole is not None:
            results["charges"] = prediction.atomic_properties[self._dipole]
            if "dipole" in self.implemented_properties:
                results["dipole"] = prediction.properties[self._dipole][0]
        results = {name: values.cpu().numpy()[()] for name, values in results.items()}  # of no dimension: a number
        if prediction.stress is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress[0].double().cpu().numpy())
        return results

    def _too_close(self, z: Tensor, edge_index: Tensor, distances: Tensor) -> np.ndarray:
        """Atoms nearer to another than any such two in training; says so the first time."""
        source, target = edge_index
        short = distances < (1 - ROUNDING) * self.closest[z[source], z[target]]
        found = torch.zeros(len(z), dtype=torch.bool, device=z.device)
        if short.any():
            found[target[short]] = True
            if not self._warned:
                self._warned = True
                edge = int(short.nonzero()[0])
                i, j = int(target[edge]), int(source[edge])
                names = [f"{chemical_symbols[int(z[atom])]} (atom {atom})" for atom in (i, j)]
                known = float(self.closest[z[i], z[j]])
                nearest = "never met" if known == np.inf else f"came no closer than {known:.3f} Å"
                warnings.warn(
                    f"{' and '.join(names)} are {float(distances[edge]):.3f} Å apart, and in training such atoms "
                    f"{nearest}: what the model says is an extrapolation",
                    stacklevel=2,
                )
        return found.cpu().numpy()


def _dipole_head(model: AtomisticModel) -> str | None:
    """The name of the head that gives dipole and charges, rather one of vectors than of magnitudes."""
    heads = {name: head.magnitude for name, head in model.properties.items() if isinstance(head, Dipole)}
    return min(heads, key=heads.__getitem__, default=None)


def _mean_and_spread(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one model its results; of several the mean and the sample standard deviation of each."""
    if len(results) == 1:
        return results[0]
    together = {name: np.stack([each[name] for each in results]) for name in results[0]}
    means = {name: values.mean(axis=0) for name, values in together.items()}
    return means | {f"{name}_std": values.std(axis=0, ddof=1) for name, values in together.items()}
