"""GDML and sGDML: force fields from kernel ridge regression on forces."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor
from torch_geometric.data import Data

from pygschnet.errors import InputError
from pygschnet.gdml.descriptor import atom_pairs, descriptors, permuted_pairs
from pygschnet.gdml.frames import collect, energy_constant
from pygschnet.gdml.kernel import Expansion
from pygschnet.gdml.permutations import recover
from pygschnet.gdml.solve import check_memory
from pygschnet.gdml.training import train
from pygschnet.graph import molecule_index
from pygschnet.nn.exact import ExactBuffers
from pygschnet.representations import Representation

SIGMAS = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0)
"""Those that the code of sGDML tries."""

VALIDATION = 200
"""Frames that suffice to choose σ."""


class GDML(ExactBuffers, Representation):
    """GDML: Ê(x) = c − (5/(3σ²)) Σ_j (1 + u_j) e^(−u_j) (D(x) − D_j)·v_j, where u_j = √5 ‖D(x) − D_j‖/σ, v_j = J_j α_j.

    A force field of one molecule: its training data hold the same atoms in the same order throughout, and so must
    whatever it is used for. D are the inverse distances of all pairs of atoms, J their derivatives, and α solves
    (K + λI) α = forces for the covariance K of the forces of all training frames; there are no weights to be learnt by
    descent. Each atom has half of the terms of its pairs, and its share of c: the head `Sum` adds them up. Everything
    is in float64.

    Args:
        symmetric: sGDML: find the permutations of equivalent atoms in the training frames, and sum over them.
        sigmas: length scales σ in 1/Å, tried from the smallest on until the error of the validation forces rises; one
            alone is taken as it is.
        regularisation: λ, in units of the variance of the training forces.
        max_gigabytes: memory that training may take, in GB; what the machine has free if null.

    Source: Chmiela et al., Sci. Adv. 3, e1603015 (2017); sGDML: Chmiela et al., Nat. Commun. 9, 3887 (2018).
    """

    z: Int[Tensor, "atoms"]
    points: Float[Tensor, "points pairs"]
    directions: Float[Tensor, "points pairs"]
    sigma: Float[Tensor, ""]
    constant: Float[Tensor, ""]
    centre: Tensor
    scaled: Tensor
    products: Tensor
    totals: Tensor

    def __init__(
        self,
        symmetric: bool = False,
        sigmas: Sequence[float] = SIGMAS,
        regularisation: float = 1e-10,
        max_gigabytes: float | None = None,
    ):
        super().__init__()
        if not sigmas or min(sigmas) <= 0:
            raise InputError(f"sigmas must be one or more numbers above 0, in 1/Å, got {list(sigmas)}")
        if regularisation < 0:
            raise InputError(f"regularisation must not be negative, got {regularisation}")
        self.features, self.cutoff = 1, None
        self.symmetric, self.sigmas = symmetric, list(sigmas)
        self.regularisation, self.max_gigabytes = regularisation, max_gigabytes
        empty = torch.zeros(0, 0, dtype=torch.float64)
        self.register_buffer("z", torch.zeros(0, dtype=torch.long))
        self.register_buffer("points", empty.clone())  # D_j in 1/Å, in all permutations
        self.register_buffer("directions", empty.clone())  # v_j in eV Å, likewise
        self.register_buffer("sigma", torch.ones((), dtype=torch.float64))
        self.register_buffer("constant", torch.zeros((), dtype=torch.float64))
        for name in ("centre", "scaled", "products", "totals"):  # what follows from these
            self.register_buffer(name, empty.clone(), persistent=False)

    @property
    def fitted(self) -> bool:
        """Whether it has been trained."""
        return len(self.points) > 0

    def forward(self, data: Data) -> Float[Tensor, "atoms features"]:
        """The energy of each atom in eV, float64; of frames of the molecule it was trained on.

        Raises:
            InputError: for other molecules, other orders of the atoms, or crystals; or before training.
        """
        if not self.fitted:
            raise InputError("this GDML has not been trained: call fit, or load a trained model")
        if "cell" in data and data.pbc.any():
            raise InputError("GDML is a force field of one molecule: a crystal has no matrix of all distances")
        batch, molecules = molecule_index(data)
        expected = torch.arange(molecules, device=batch.device).repeat_interleave(len(self.z))
        if not (torch.equal(data.z, self.z.repeat(molecules)) and torch.equal(batch, expected)):
            own, given = ("".join(chemical_symbols[n] for n in z.tolist()) for z in (self.z, data.z[batch == batch[0]]))
            given = given if len(given) <= 2 * len(own) else f"{given[: 2 * len(own)]}…"
            raise InputError(
                f"this GDML is a force field of {own} with its atoms in this order, and given was {given}, or a batch "
                "with other molecules: bring the atoms into this order, or train on the other molecule"
            )
        return self.atomic_energies(data.pos.double().view(molecules, -1, 3)).view(-1, 1)

    def atomic_energies(self, pos: Float[Tensor, "frames atoms 3"]) -> Float[Tensor, "frames atoms"]:
        """The energies of the atoms, in eV.

        Args:
            pos: positions in Å, float64.
        """
        x = 5**0.5 / self.sigma * descriptors(pos) - self.centre
        sums = Expansion.apply(x, self.scaled, self.directions, self.products, self.totals)
        of_pairs = -(5**0.5 / (3 * self.sigma)) * sums
        energies = pos.new_zeros(pos.shape[:2]) + self.constant / pos.shape[1]
        for ends in atom_pairs(pos.shape[1]).to(pos.device):
            energies = energies.index_add(1, ends, of_pairs / 2)
        return energies

    def forces(self, pos: Float[Tensor, "frames atoms 3"]) -> Float[Tensor, "frames atoms 3"]:
        """The forces, in eV/Å.

        Args:
            pos: positions in Å, float64.
        """
        with torch.enable_grad():
            pos = pos.detach().requires_grad_()
            return -torch.autograd.grad(self.atomic_energies(pos).sum(), pos)[0]

    def fit(self, training: Iterable[Data], validation: Iterable[Data]) -> None:
        """Train on the forces, and choose σ by those of the validation data.

        Args:
            training: batches with forces in eV/Å and, for the constant of the energy, energies in eV.
            validation: the same; needed where there is a choice of σ.

        Raises:
            InputError: for data that are not frames of one molecule with forces, or take more memory than there is.
        """
        frames = collect(training, "training")
        held_out = collect(validation, "validation", VALIDATION) if len(self.sigmas) > 1 else None
        if held_out is not None and not torch.equal(held_out.z, frames.z):
            raise InputError("the validation data are of another molecule than the training data, or another order")
        permutations = torch.arange(len(frames.z)).unsqueeze(0)
        check_memory(len(frames.pos), len(frames.z), 1, self.max_gigabytes)
        if self.symmetric:
            permutations = torch.from_numpy(recover(frames.z.numpy(), frames.pos.numpy()))
            check_memory(len(frames.pos), len(frames.z), len(permutations), self.max_gigabytes)
        points = descriptors(frames.pos)

        def validate(directions: Tensor, sigma: float) -> float:
            self.take(frames.z, permutations, points, directions, sigma)
            forces = self.forces(held_out.pos.to(self.z.device)).cpu()
            return float((forces - held_out.forces).square().mean().sqrt())

        best = train(frames, permutations, self.sigmas, self.regularisation, validate if held_out is not None else None)
        self.take(frames.z, permutations, points, *best)
        if frames.energy is not None:
            integrated = self.atomic_energies(frames.pos.to(self.z.device)).sum(1).cpu()
            self.constant.fill_(energy_constant(integrated, frames.energy))

    def take(
        self,
        z: Int[Tensor, "atoms"],
        permutations: Int[Tensor, "permutations atoms"],
        points: Float[Tensor, "frames pairs"],
        directions: Float[Tensor, "frames pairs"],
        sigma: float,
        constant: float = 0.0,
    ) -> None:
        """Become the force field with these numbers.

        Args:
            z: atomic numbers of the molecule.
            permutations: a group of them, or the identity alone.
            points: descriptors D_j of the training frames, in 1/Å.
            directions: v_j = J_j α_j, in eV Å.
            sigma: σ in 1/Å.
            constant: c in eV.
        """
        device, order = self.z.device, permuted_pairs(permutations)
        self.z = z.to(device)
        self.points, self.directions = (part[:, order].flatten(0, 1).to(device) for part in (points, directions))
        self.sigma.fill_(sigma)
        self.constant.fill_(constant)
        self._prepare()

    def _prepare(self) -> None:
        """What every prediction would compute again; descriptors are taken from their mean, for the sake of digits."""
        scale = 5**0.5 / self.sigma
        self.centre = scale * self.points.mean(0)
        self.scaled = scale * self.points - self.centre
        self.products = self.scaled * self.directions
        self.totals = torch.stack([self.directions.sum(0), self.products.sum(0)])

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        """Take the shapes of what is loaded."""
        for name in ("z", "points", "directions"):
            if (values := state_dict.get(prefix + name)) is not None:
                setattr(self, name, getattr(self, name).new_zeros(values.shape))
        super()._load_from_state_dict(state_dict, prefix, *others)
        if self.fitted:
            self._prepare()
