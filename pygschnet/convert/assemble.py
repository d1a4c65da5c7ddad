"""From the weights and settings of somebody else's SchNet to a model of ours."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from ase.data import atomic_numbers
from torch import Tensor

from pygschnet.elements import MAX_Z
from pygschnet.errors import InputError
from pygschnet.heads import Atomwise
from pygschnet.model import AtomisticModel
from pygschnet.nn.cutoff import Form
from pygschnet.representations import SchNet


class Weights(NamedTuple):
    """A SchNet of another program, in its own units.

    Attributes:
        tensors: parameters by the names that they have here.
        centres: of the Gaussians.
        gamma: γ of the Gaussians.
        cutoff: radius; None for all pairs.
        cutoff_form: of the cutoff function.
        filter_final_activation: whether the filter networks end with an ssp.
        activation: of the output network's hidden layer.
        aggregation: of the energies of the atoms.
        scale: σ, what one unit of network output stands for.
        shift: μ, the energy per atom that is added.
        references: energies of isolated atoms by atomic number; None if there are none.
    """

    tensors: dict[str, Tensor]
    centres: Tensor
    gamma: float
    cutoff: float | None
    cutoff_form: Form
    filter_final_activation: bool
    activation: Literal["ssp", "silu"]
    aggregation: Literal["sum", "mean"]
    scale: float = 1.0
    shift: float = 0.0
    references: Tensor | None = None


class Unsaid:
    """What the user says in place of the file.

    Args:
        given: settings by name, None if not given.

    Attributes:
        assumed: what neither has said, and what was taken instead.
    """

    def __init__(self, given: Mapping[str, Any]):
        self.given = {name: value for name, value in given.items() if value is not None}
        self.asked: set[str] = set()
        self.assumed: dict[str, Any] = {}

    def settle(self, name: str, said: Any, default: Any) -> Any:
        """What the file says; what the user says if it is silent; the default, noted down, if both are.

        Raises:
            InputError: if the user contradicts the file.
        """
        self.asked.add(name)
        given = self.given.get(name)
        if said is None:
            if given is None:
                self.assumed[name] = default
            return default if given is None else given
        if given is not None and given != said:
            raise InputError(f"the file says that {name} is {said}, not {given}: leave it out")
        return said

    def refuse_rest(self) -> None:
        """Refuse what the user says and nobody has asked for."""
        if rest := sorted(self.given.keys() - self.asked):
            raise InputError(f"this file does not leave {', '.join(rest)} open: leave it out")


def rename(
    tensors: Mapping[str, Tensor], names: Sequence[tuple[str, str]]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors under our names, and those that have none under their own.

    Args:
        tensors: by their names in the file.
        names: pairs of a regular expression and what it becomes.

    Raises:
        InputError: if two different tensors would have the same name.
    """
    ours: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for name, values in tensors.items():
        for pattern, template in names:
            if found := re.fullmatch(pattern, name):
                new = found.expand(template)
                if new in ours and not torch.equal(ours[new], values):
                    raise InputError(f"the file holds two different tensors for {new}, one of them {name}")
                ours[new] = values
                break
        else:
            rest[name] = values
    return ours, rest


def refuse_rest(rest: Mapping[str, Tensor]) -> None:
    """Refuse tensors that no one has asked for: the model does more than is known here."""
    if rest:
        raise InputError(f"this model has parts that cannot be converted: {', '.join(sorted(rest)[:5])}")


def gamma_of(widths: Tensor) -> float:
    """γ = 1/(2 width²) of Gaussians that have one width.

    Raises:
        InputError: if they have several, having been trained.
    """
    width = float(widths.flatten()[0])
    if width <= 0 or (widths - width).abs().max() > 1e-5 * width:
        raise InputError("the Gaussians have different widths: trained or centred ones cannot be converted")
    return 0.5 / width**2


def assemble(weights: Weights, energy: float, length: float, elements: Sequence[str] | None) -> AtomisticModel:
    """The model.

    Args:
        weights: in the units of the file.
        energy: its unit of energy, in eV.
        length: its unit of length, in Å.
        elements: those it was trained on; if null those with reference energies, or all if there are none.

    Raises:
        InputError: if tensors are missing or do not fit, or the Gaussians are not equally spaced.
    """
    tensors = weights.tensors
    try:
        features, filters = tensors["representation.blocks.0.in2f.weight"].T.shape
        hidden = len(tensors["head.dense_1.weight"])
    except (KeyError, ValueError) as missing:
        raise InputError(f"the file holds no SchNet that is known here: {missing} is missing") from None
    blocks = len([name for name in tensors if re.fullmatch(r"representation\.blocks\.\d+\.in2f\.weight", name)])
    centres = weights.centres.double().flatten()
    start, stop = (float(centres[end]) for end in (0, -1))
    even = torch.linspace(start, stop, len(centres), dtype=torch.float64)
    if len(centres) < 2 or stop <= start or (centres - even).abs().max() > 1e-5 * (stop - start) / len(centres):
        raise InputError("the Gaussians are not equally spaced: trained or centred ones cannot be converted")
    representation = SchNet(
        features=features,
        filters=filters,
        interactions=blocks,
        gaussians=len(centres),
        gaussian_start=start * length,
        gaussian_stop=stop * length,
        gamma=weights.gamma / length**2,
        cutoff=None if weights.cutoff is None else weights.cutoff * length,
        cutoff_form=weights.cutoff_form,
        filter_final_activation=weights.filter_final_activation,
    )
    head = Atomwise(features, hidden, activation=weights.activation, aggregation=weights.aggregation)
    model = AtomisticModel(representation, head)
    embedding = tensors["representation.embedding.weight"]
    model.to(torch.float64 if embedding.dtype == torch.float64 else torch.float32)
    _fill(model, tensors)
    head.sigma.fill_(weights.scale * energy)
    head.mu.fill_(weights.shift * energy)
    known = torch.zeros(MAX_Z + 1, dtype=torch.bool)
    known[1 : len(embedding)] = True
    if weights.references is not None:
        references = weights.references.double().flatten()[: MAX_Z + 1]
        head.reference_energies[: len(references)] = references * energy
        if references.any():
            known &= head.reference_energies != 0
    head.elements.copy_(known if elements is None else _chosen(elements, len(embedding)))
    return model.eval()


def _fill(model: AtomisticModel, tensors: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    if extra := sorted(tensors.keys() - parameters.keys()):
        raise InputError(f"this model has parts that cannot be converted: they would be {', '.join(extra[:5])}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if name not in tensors:
                raise InputError(f"the file holds no SchNet that is known here: {name} is missing")
            values = tensors[name]
            if name == "representation.embedding.weight":  # which may be of fewer elements, or more
                values = values[: MAX_Z + 1]
                values = torch.cat([values, values.new_zeros(MAX_Z + 1 - len(values), *values.shape[1:])])
            if values.shape != parameter.shape:
                raise InputError(f"{name} should have the shape {list(parameter.shape)}, not {list(values.shape)}")
            if not values.isfinite().all():
                raise InputError(f"{name} holds numbers that are not finite")
            parameter.copy_(values)


def _chosen(elements: Sequence[str], rows: int) -> Tensor:
    known = torch.zeros(MAX_Z + 1, dtype=torch.bool)
    for symbol in elements:
        if not 0 < atomic_numbers.get(symbol, 0) < min(rows, MAX_Z + 1):
            raise InputError(f"{symbol!r} is no element that the model has an embedding for")
        known[atomic_numbers[symbol]] = True
    return known
