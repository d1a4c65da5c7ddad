"""The model: a representation, a head, and forces and stress by differentiation."""

import copy
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch_geometric.data import Data

from pygschnet.elements import MAX_Z, check_atomic_numbers
from pygschnet.errors import InputError
from pygschnet.graph import edge_distances, molecule_index
from pygschnet.heads import EnergyHead, Head
from pygschnet.representations import Representation


class Prediction(NamedTuple):
    """What a model returns.

    Attributes:
        energy: [molecules], eV, float64.
        forces: −∂E/∂r, [atoms, 3], eV/Å; None if not asked for.
        stress: (∂E/∂ε)/V, [molecules, 3, 3], eV/Å³; None if not asked for.
        atomic_energies: [atoms], eV, float64; their sum over a molecule is its energy.
        properties: by name, [molecules], [molecules, 3] or [molecules, 3, 3], float64, in the units of the data they
            were trained on.
        atomic_properties: what each atom has of these, by the same names, [atoms]: its share of a sum, or its charge
            in e where the property is a dipole.
    """

    energy: Float[Tensor, "molecules"]
    forces: Float[Tensor, "atoms 3"] | None
    stress: Float[Tensor, "molecules 3 3"] | None
    atomic_energies: Float[Tensor, "atoms"]
    properties: dict[str, Float[Tensor, "molecules *components"]] = {}  # noqa: RUF012, a NamedTuple shares its defaults
    atomic_properties: dict[str, Float[Tensor, "atoms"]] = {}  # noqa: RUF012


class AtomisticModel(nn.Module):
    """Energies, forces, stress and other properties of molecules.

    Args:
        representation: graph → features per atom.
        head: features → energies.
        properties: heads of other properties, such as QM9's gap or a dipole, by the names that they have in the data.

    Attributes:
        closest: how close atoms of two elements came in training, in Å; 0 where nothing is known.

    Raises:
        InputError: if a head does not fit the representation.
    """

    closest: Float[Tensor, "elements elements"]

    def __init__(self, representation: Representation, head: EnergyHead, properties: Mapping[str, Head] | None = None):
        super().__init__()
        for each in (head, *(properties or {}).values()):
            if representation.features != each.features:
                raise InputError(
                    f"the representation gives {representation.features} features, the head takes {each.features}"
                )
        self.representation = representation
        self.head = head
        self.properties = nn.ModuleDict(properties or {})
        self.register_buffer("closest", torch.zeros(MAX_Z + 1, MAX_Z + 1))

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.closest.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; float64 if there are none, as in kernel models."""
        return next((weight.dtype for weight in self.parameters()), torch.float64)

    @property
    def cutoff(self) -> float | None:
        """Radius in Å within which the edges must be complete; None means all pairs."""
        return self.representation.cutoff

    def forward(self, data: Data, forces: bool = True, stress: bool = False) -> Prediction:
        """Predict, without changing `data`.

        Works under `torch.no_grad` and `torch.inference_mode`. Where gradients are enabled the results can be
        differentiated again, as training on forces does.

        Args:
            data: one molecule or a PyG batch, with edges from `RadiusGraph`.
            forces: whether to compute forces.
            stress: whether to compute the stress, for periodic systems.

        Raises:
            InputError: for missing or too short edges, elements unknown to the model, or stress without a cell.
        """
        differentiable = torch.is_grad_enabled()
        self.check(data)
        if stress and "cell" not in data:
            raise InputError("stress needs a cell, and this system has none")
        if not (forces or stress):
            energy, atomic_energies, *properties = self._outputs(data)
            return Prediction(energy, None, None, atomic_energies, *properties)
        if not differentiable and (prediction := self._at_once(data, stress)) is not None:
            return prediction if forces else prediction._replace(forces=None)
        if differentiable and not stress and (prediction := self._trained(data)) is not None:
            return prediction
        with torch.inference_mode(False), torch.enable_grad():
            prediction = self._derivatives(data, forces, stress, differentiable)
        return prediction if differentiable else _detached(prediction)

    def labels(self, data: Data) -> dict[str, Tensor]:
        """What the data say of all that this model predicts, by name, in the shape of the prediction.

        Args:
            data: with some of the labels, or none.

        Raises:
            InputError: for a label that its head cannot learn.
        """
        labels = {name: data[name] for name in ("energy", "forces", "stress") if name in data}
        return labels | {name: head.label(data[name]) for name, head in self.properties.items() if name in data}

    def _outputs(self, data: Data, once: bool = False) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
        features = self.representation.once(data) if once else self.representation(data)
        outputs = {name: head(features, data) for name, head in self.properties.items()}
        of_molecules, of_atoms = ({name: output[k] for name, output in outputs.items()} for k in (0, 1))
        return *self.head(features, data), of_molecules, of_atoms

    @torch.compiler.disable
    def _at_once(self, data: Data, stress: bool) -> Prediction | None:
        """The same without autograd; None where that is not possible."""
        network = self.head.network()
        if network is None or self.properties or (stress and len(data.cell) > 1):
            return None
        if (found := self.representation.outputs(data, network)) is None:
            return None
        output, gradient, virial = found
        energy, atomic_energies = self.head.energies(output, data.z, *molecule_index(data))
        sigma = self.head.sigma.to(gradient)
        of_strain = (sigma * virial / torch.linalg.det(data.cell).abs()).view(1, 3, 3) if stress else None
        return Prediction(energy, -sigma * gradient, of_strain, atomic_energies)

    @torch.compiler.disable
    def _trained(self, data: Data) -> Prediction | None:
        """The same in training, where only gradients of the weights are asked for; None where that is not possible."""
        network = self.head.network()
        if network is None or self.properties or data.pos.requires_grad:
            return None
        if (found := self.representation.trained(data, network)) is None:
            return None
        energy, atomic_energies = self.head.energies(found[0], data.z, *molecule_index(data))
        return Prediction(energy, -self.head.sigma.to(found[1]) * found[1], None, atomic_energies)

    @torch.compiler.disable  # which cannot differentiate twice
    def _derivatives(self, data: Data, forces: bool, stress: bool, differentiable: bool) -> Prediction:
        data = data.clone() if data.pos.is_inference() else copy.copy(data)
        given = data.pos if data.pos.requires_grad else None
        pos = data.pos.detach().requires_grad_() if given is None else given
        data.pos, inputs = pos, [pos]
        if stress:
            batch, molecules = molecule_index(data)
            inputs.append(pos.new_zeros(molecules, 3, 3).requires_grad_())
            strain = (inputs[1] + inputs[1].mT) / 2
            data.pos = pos + (pos.unsqueeze(1) @ strain[batch]).squeeze(1)
            data.cell = data.cell + data.cell @ strain
        energy, atomic_energies, *properties = self._outputs(data, once=not differentiable)
        gradients = torch.autograd.grad(energy.sum(), inputs, create_graph=differentiable, materialize_grads=True)
        for leaf in inputs:
            if leaf is not given:  # nobody else can ask for its gradient: spares kernels in training
                leaf.requires_grad_(False)
        return Prediction(
            energy,
            -gradients[0] if forces else None,
            gradients[1] / torch.linalg.det(data.cell).abs().view(-1, 1, 1) if stress else None,
            atomic_energies,
            *properties,
        )

    def extend_range(self, data: Data) -> None:
        """Note how close atoms come to each other in training data: `closest`."""
        source, target = data.z[data.edge_index].to(self.closest.device)
        if not self.closest.any():
            self.closest.fill_(math.inf)
        distances = edge_distances(data).to(self.closest)
        self.closest.view(-1).scatter_reduce_(0, source * len(self.closest) + target, distances, "amin")

    def check(self, data: Data) -> None:
        """Refuse graphs that this model cannot use: no edges, edges too short, unknown elements."""
        if "edge_index" not in data:
            raise InputError(f"the graph has no edges: apply RadiusGraph(cutoff={self.cutoff}) to it first")
        if data.pos.is_cuda:
            return  # reading numbers would wait for the GPU at every step
        needed = math.inf if self.cutoff is None else self.cutoff
        if "edge_cutoff" in data and len(data.z) and (found := data.edge_cutoff.min().item()) < needed:
            raise InputError(
                f"the graph holds the edges up to {found} Å, the model needs those up to {needed} Å: "
                f"apply RadiusGraph(cutoff={self.cutoff})"
            )
        check_atomic_numbers(data.z)
        self.head.check_elements(data.z)


def _detached(prediction: Prediction) -> Prediction:
    tensors = [tensor if tensor is None else tensor.detach() for tensor in prediction[:4]]
    return Prediction._make([*tensors, *({name: v.detach() for name, v in named.items()} for named in prediction[4:])])
