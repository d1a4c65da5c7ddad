"""What heads of energies share: scale, shift and atomic references, in float64."""

from collections.abc import Mapping
from typing import Literal

import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor

from pygschnet.elements import MAX_Z, numbers_of
from pygschnet.errors import InputError
from pygschnet.heads.base import Head, per_molecule

References = Mapping[str, float] | Literal["data", "least_squares"]


class EnergyHead(Head):
    """Energy as a sum over atoms: E = Σ_i σ·o_i + μ + e0(Z_i), where a subclass says what o_i is.

    The network runs in float32; σ, μ and e0 are applied, and the sum taken, in float64, because total energies
    near 10⁵ kcal/mol do not survive float32. All three are buffers: they travel with the model.

    Args:
        aggregation: "sum", or "mean" for a property that does not grow with the molecule.
        scale: σ in eV, what one unit of network output stands for; if null the standard deviation of the training
            energies (per atom for a sum), as in the released code.
        shift: μ in eV; if null the mean of the training energies (per atom for a sum).
        references: energies of the isolated atoms in eV by element, such as {"H": -13.6}, zero where not given; "data"
            for those that come with the data; "least_squares" for those that fit the training energies best.

    Source: arXiv:1706.08566, section 4; released code for scale and shift.
    """

    sigma: Float[Tensor, ""]
    mu: Float[Tensor, ""]
    reference_energies: Float[Tensor, "elements"]

    def __init__(
        self,
        aggregation: Literal["sum", "mean"] = "sum",
        scale: float | None = None,
        shift: float | None = None,
        references: References | None = None,
    ):
        super().__init__()
        self.aggregation, self.scale, self.shift, self.references = aggregation, scale, shift, references
        self.register_buffer("sigma", torch.tensor(1.0 if scale is None else scale, dtype=torch.float64))
        self.register_buffer("mu", torch.tensor(0.0 if shift is None else shift, dtype=torch.float64))
        self.register_buffer("reference_energies", _table(references if isinstance(references, Mapping) else {}))

    def fit(
        self,
        z: Int[Tensor, "atoms"],
        batch: Int[Tensor, "atoms"],
        energy: Float[Tensor, "molecules"],
        isolated_atoms: Mapping[str, float] | None = None,
    ) -> None:
        """Take references, shift and scale, as far as they are not given, and the known elements from training data.

        Args:
            z: atomic numbers of all training molecules.
            batch: the molecule of each atom.
            energy: energies of the molecules, in eV.
            isolated_atoms: energies in eV by element, for the references "data".

        Raises:
            InputError: if the references asked for are not in the data, or cannot be told from them.

        Source: the released code of 2017: mean and population standard deviation of (E − Σ e0) / n.
        """
        z, batch, energy = (tensor.to(self.mu.device) for tensor in (z, batch, energy.double()))
        if self.references == "data":
            self.reference_energies.copy_(_complete(isolated_atoms or {}, z))
        elif self.references == "least_squares":
            self.reference_energies.copy_(least_squares_references(z, batch, energy))
        residual = energy - per_molecule(self.references_of(z, batch, len(energy)), batch, len(energy))
        if self.aggregation == "sum":
            residual = residual / torch.bincount(batch, minlength=len(energy))
        if self.shift is None:
            self.mu.copy_(residual.mean())
        deviation = residual.std(correction=0)
        if self.scale is None and deviation > 1e-9 * residual.abs().max():  # not for one molecule, or equal ones
            self.sigma.copy_(deviation)
        super().fit(z, batch, energy)

    def network(self) -> list[Tensor] | None:
        """A, b, w and c if E = Σ_i σ (w·ssp(A x_i + b) + c) + …; None if not, or if somebody observes the layers."""
        return None

    def label(self, values: Float[Tensor, "molecules *given"]) -> Float[Tensor, "molecules"]:
        """The values themselves, one for each molecule."""
        if values.dim() != 1:
            raise InputError(
                f"{type(self).__name__} learns one number per molecule, the labels have the shape {list(values.shape)}"
            )
        return values

    def energies(
        self,
        output: Float[Tensor, "atoms"],
        z: Int[Tensor, "atoms"],
        batch: Int[Tensor, "atoms"],
        molecules: int,
    ) -> tuple[Float[Tensor, "molecules"], Float[Tensor, "atoms"]]:
        """Energies of molecules and atoms, from what the network gives for every atom."""
        atomic = self.sigma * output.double() + self.mu
        if self.aggregation == "mean":
            atomic = atomic / torch.bincount(batch, minlength=molecules)[batch]
        atomic = atomic + self.references_of(z, batch, molecules)
        return per_molecule(atomic, batch, molecules), atomic

    def references_of(
        self, z: Int[Tensor, "atoms"], batch: Int[Tensor, "atoms"], molecules: int
    ) -> Float[Tensor, "atoms"]:
        """What the references contribute to the energies of the atoms, in eV: e0, or its share in a mean."""
        references = self.reference_energies[z]
        if self.aggregation == "mean":
            references = references / torch.bincount(batch, minlength=molecules)[batch]
        return references


def least_squares_references(
    z: Int[Tensor, "atoms"], batch: Int[Tensor, "atoms"], energy: Float[Tensor, "molecules"]
) -> Float[Tensor, "elements"]:
    """Energies per element whose sum over the atoms of a molecule comes nearest to its energy, in eV.

    Args:
        z: atomic numbers of all molecules.
        batch: the molecule of each atom.
        energy: energies of the molecules, in eV.

    Raises:
        InputError: if the compositions do not determine them, as for conformations of one molecule.
    """
    elements, column = z.unique(return_inverse=True)
    counts = energy.new_zeros(len(energy), len(elements)).index_put((batch, column), energy.new_ones(()), True)
    rank = int(torch.linalg.matrix_rank(counts))
    if rank < len(elements):
        names = ", ".join(chemical_symbols[number] for number in elements.tolist())
        raise InputError(
            f"least squares cannot tell the reference energies of {names} apart: the training molecules have only "
            f"{rank} independent compositions. Give a table, or isolated atoms with references: data"
        )
    table = energy.new_zeros(MAX_Z + 1)
    table[elements] = torch.linalg.lstsq(counts, energy.unsqueeze(1)).solution.squeeze(1)
    return table


def _complete(isolated_atoms: Mapping[str, float], z: Tensor) -> Tensor:
    missing = {chemical_symbols[number] for number in z.unique().tolist()} - isolated_atoms.keys()
    if missing:
        raise InputError(
            f"the data have no energies of isolated {', '.join(sorted(missing))}: add these atoms to the files, "
            'or set references to a table or to "least_squares"'
        )
    return _table(isolated_atoms).to(z.device)


def _table(references: Mapping[str, float]) -> Tensor:
    table = torch.zeros(MAX_Z + 1, dtype=torch.float64)
    for number, energy in zip(numbers_of(references), references.values(), strict=True):
        table[number] = energy
    return table
