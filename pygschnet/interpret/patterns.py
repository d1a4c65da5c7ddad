"""Patterns of the output network: the directions of the features along which lies what its weights read.

The weights w of a neuron y = wᵀx + b are a filter: they must cancel whatever disturbs it, so they do not point to what
it reads. Its pattern a does, and is estimated from how x and y vary together (arXiv:1705.05598). Two things are done
in another way than there, because ssp is not ReLU and because a regression has no natural zero:

- A neuron followed by ssp has no on and off. It is "on" by π(y) = ssp′(y) = σ(y), and its two patterns are weighted by
  π and 1 − π; for π(βy) with β → ∞ that is the published estimator.
- x and y are measured from their means over the atoms of one element, and all statistics are of one element: features
  cluster by element, and pooled statistics would mostly say which element an atom is.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch_geometric.data import Data

from pygschnet.errors import InputError
from pygschnet.files import write_npz
from pygschnet.interpret.molecule import graph_of
from pygschnet.model import AtomisticModel

ATOMS = 2000
"""Atoms whose features are taken together: single molecules would cost more in sums than in the network."""

DEAD = 1e-10
"""A neuron is dead if its output varies by less than this, relative to what its weights and inputs could give."""


class OutputNetwork(NamedTuple):
    """The output network o = w·ssp(y) + c, y = W x + b, of an `Atomwise` head, in float64.

    Attributes:
        W: weights of the hidden layer, [neurons, features].
        b: its biases, [neurons].
        w: weights of the last layer, [1, neurons].
        c: its bias, [1].
    """

    W: Float[np.ndarray, "neurons features"]
    b: Float[np.ndarray, "neurons"]
    w: Float[np.ndarray, "1 neurons"]
    c: Float[np.ndarray, "1"]

    @classmethod
    def of(cls, model: AtomisticModel) -> "OutputNetwork":
        """That of a model's energy.

        Raises:
            InputError: for other output networks; the statistics of patterns are made for this one.
        """
        if (network := model.head.network()) is None:
            raise InputError(
                "attributions need an output network of two dense layers with biases, ssp between them, and energies "
                f"that add up over atoms; this {type(model.head).__name__} is not like that, or has layers that were "
                "replaced or are observed by hooks"
            )
        return cls(*(part.detach().cpu().double().numpy() for part in network))

    def hidden(
        self, x: Float[np.ndarray, "atoms features"]
    ) -> tuple[Float[np.ndarray, "atoms neurons"], Float[np.ndarray, "atoms neurons"]]:
        """y = W x + b and ssp(y)."""
        y = x @ self.W.T + self.b
        return y, np.logaddexp(0.0, y) - np.log(2.0)


def responsibilities(y: Float[np.ndarray, "atoms neurons"]) -> Float[np.ndarray, "2 atoms neurons"]:
    """How far each neuron is on, π = σ(y) = ssp′(y), and off, 1 − π = σ(−y); both to full precision."""
    return np.exp(-np.logaddexp(0.0, np.stack([-y, y])))


class Moments(NamedTuple):
    """What patterns need to know of a dense layer y = W x + b: sums over atoms, weighted by gates π that add up to one.

    x and y are measured from their means, so that offsets cost no digits; `merge` moves two parts to common ones. There
    are two gates per neuron, on and off, or one of ones for a linear layer.

    Attributes:
        atoms: how many.
        x: mean inputs x̄, [inputs].
        y: mean outputs ȳ, [outputs].
        gate: Σ π, [gates, outputs].
        gate_x: Σ π (x − x̄), [gates, outputs, inputs].
        gate_y: Σ π (y − ȳ), [gates, outputs].
        gate_xy: Σ π (x − x̄)(y − ȳ), [gates, outputs, inputs].
    """

    atoms: int
    x: Float[np.ndarray, "inputs"]
    y: Float[np.ndarray, "outputs"]
    gate: Float[np.ndarray, "gates outputs"]
    gate_x: Float[np.ndarray, "gates outputs inputs"]
    gate_y: Float[np.ndarray, "gates outputs"]
    gate_xy: Float[np.ndarray, "gates outputs inputs"]

    @classmethod
    def of(
        cls,
        x: Float[np.ndarray, "atoms inputs"],
        y: Float[np.ndarray, "atoms outputs"],
        gates: Float[np.ndarray, "gates atoms outputs"],
    ) -> "Moments":
        """Those of some atoms, at least one."""
        mean_x, mean_y = x.mean(0), y.mean(0)
        dx, gates_dy = x - mean_x, gates * (y - mean_y)
        gates_x, gates_xy = gates.swapaxes(1, 2) @ dx, gates_dy.swapaxes(1, 2) @ dx
        return cls(len(x), mean_x, mean_y, gates.sum(1), gates_x, gates_dy.sum(1), gates_xy)

    def merge(self, other: "Moments") -> "Moments":
        """Those of the atoms of both."""
        atoms = self.atoms + other.atoms
        x = self.x + (other.x - self.x) * (other.atoms / atoms)
        y = self.y + (other.y - self.y) * (other.atoms / atoms)
        one, two = self._about(x, y), other._about(x, y)
        return Moments(atoms, x, y, *(a + b for a, b in zip(one, two, strict=True)))

    def _about(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
        """The sums, measured from another origin."""
        dx, dy = self.x - x, (self.y - y)[:, None]
        gate = self.gate[..., None]
        gate_xy = self.gate_xy + self.gate_x * dy + (self.gate_y[..., None] + gate * dy) * dx
        return self.gate, self.gate_x + gate * dx, self.gate_y + self.gate * dy[:, 0], gate_xy

    def linear(self) -> "Moments":
        """Without gates: what the one-component estimator S_a takes."""
        sums = ("gate", "gate_x", "gate_y", "gate_xy")
        return self._replace(**{name: getattr(self, name).sum(0, keepdims=True) for name in sums})

    def patterns(self, weight: Float[np.ndarray, "outputs inputs"]) -> Float[np.ndarray, "gates outputs inputs"]:
        """a = E_π[x̃ỹ] / wᵀE_π[x̃ỹ] of every gate and neuron, so that wᵀa = 1; zero for dead neurons.

        Here x̃ = x − E[x] and ỹ = y − E[y], E unconditional. With one gate this is S_a, a = cov(x, y)/var(y), with two
        S_a+−: the direction in the space of the inputs, and the length, that go with one unit of y.

        Source: arXiv:1705.05598, the linear and the two-component estimator.
        """
        along = (weight * self.gate_xy).sum(-1)
        norm = np.linalg.norm(weight, axis=-1)
        noise = self.gate * (1e-2 * DEAD * norm * np.linalg.norm(self.x)) ** 2  # of rounding, where x is constant
        alive = np.abs(along) > DEAD * norm * np.linalg.norm(self.gate_xy, axis=-1) + noise
        return np.where(alive[..., None], self.gate_xy / np.where(alive, along, 1.0)[..., None], 0.0)


class Patterns(NamedTuple):
    """Patterns of the output network of one model, per element.

    They are of the molecules that they were estimated from as much as of the model, and directions in the space of its
    features, which mean nothing to another model.

    Attributes:
        z: the elements, ascending.
        atoms: how many atoms of each went into the estimates.
        features: mean features ⟨x⟩ per element, [elements, features].
        hidden: mean ⟨ssp(y)⟩ of the hidden neurons, [elements, neurons].
        positive: a_+ of the hidden layer, for neurons that are on, [elements, neurons, features].
        negative: a_−, for neurons that are off.
        linear: a of S_a, which does not tell on from off, for comparison.
        output: a of the last layer, [elements, neurons].
        rare: elements left out, for lack of atoms.
        rare_atoms: how many there were of each.
        minimum: how many it takes.
        digest: SHA-256 of the weights of representation and head.
    """

    z: Int[np.ndarray, "elements"]
    atoms: Int[np.ndarray, "elements"]
    features: Float[np.ndarray, "elements features"]
    hidden: Float[np.ndarray, "elements neurons"]
    positive: Float[np.ndarray, "elements neurons features"]
    negative: Float[np.ndarray, "elements neurons features"]
    linear: Float[np.ndarray, "elements neurons features"]
    output: Float[np.ndarray, "elements neurons"]
    rare: Int[np.ndarray, "rare"]
    rare_atoms: Int[np.ndarray, "rare"]
    minimum: int
    digest: str

    def save(self, path: str | Path) -> None:
        """Write to an npz file, whole or not at all."""
        write_npz(Path(path), {name: np.asarray(value) for name, value in self._asdict().items()})

    @classmethod
    def load(cls, path: str | Path) -> "Patterns":
        """Read what `save` has written.

        Raises:
            InputError: if there is no such file, or it is damaged or something else.
        """
        try:
            with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in cls._fields}
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, TypeError, AttributeError) as error:
            raise InputError(f"{path} is no file of patterns, or is damaged: {error}") from None
        return cls(**arrays)._replace(minimum=int(arrays["minimum"]), digest=str(arrays["digest"]))

    def check(self, model: AtomisticModel) -> None:
        """Refuse, with an InputError, any model but the one that these patterns were estimated for."""
        if self.digest != digest(model):
            raise InputError("these patterns belong to a model with other weights: estimate them for this one")

    def row(self, element: int) -> int:
        """Where an element stands in the arrays.

        Raises:
            InputError: if it was left out.
        """
        if element in self.z:
            return int(np.searchsorted(self.z, element))
        atoms = dict(zip(self.rare.tolist(), self.rare_atoms.tolist(), strict=True)).get(element, 0)
        raise InputError(
            f"there are no patterns of {chemical_symbols[element]}: they were estimated from {atoms} of its atoms, and "
            f"take {self.minimum}. Estimate them from more molecules that hold it, or with a lower minimum"
        )


def digest(model: AtomisticModel) -> str:
    """SHA-256 of the weights of representation and head; the same after a cast to higher precision."""
    found = hashlib.sha256()
    for part in (model.representation, model.head):
        for name, parameter in part.named_parameters():
            found.update(f"{name} {list(parameter.shape)}".encode())
            found.update(parameter.detach().cpu().double().contiguous().numpy().data)
    return found.hexdigest()


def features_by_element(
    model: AtomisticModel, molecules: Iterable[Data | Atoms]
) -> Iterator[tuple[int, Float[np.ndarray, "atoms features"]]]:
    """What enters the output network, in float64: features of atoms of one element, some thousand atoms at a time."""
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    for molecule in molecules:
        data = graph_of(model, molecule)
        with torch.no_grad():
            waiting.append((data.z.cpu().numpy(), model.representation(data).cpu().double().numpy()))
        if sum(len(z) for z, _ in waiting) >= ATOMS:
            yield from _by_element(waiting)
            waiting.clear()
    yield from _by_element(waiting)


def _by_element(parts: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    for element in sorted(set[int]().union(*(z.tolist() for z, _ in parts))):
        yield element, np.concatenate([x[z == element] for z, x in parts])


def estimate_patterns(model: AtomisticModel, molecules: Iterable[Data | Atoms], minimum: int = 1000) -> Patterns:
    """Patterns of a model's output network, from one pass over molecules.

    Args:
        model: with an `Atomwise` head with ssp.
        molecules: PyG batches, which are faster, or single molecules, with edges or without: of the kind that the
            model is asked about, some 10⁵ atoms in all.
        minimum: elements with fewer atoms are left out: a pattern has as many numbers as there are features.

    Raises:
        InputError: for other heads, or if no element has enough atoms.

    Source: arXiv:1705.05598, with the changes named at the top of this file.
    """
    network = OutputNetwork.of(model)
    found: dict[int, tuple[Moments, Moments]] = {}
    for element, x in features_by_element(model, molecules):
        y, h = network.hidden(x)
        o = h @ network.w.T + network.c
        layers = Moments.of(x, y, responsibilities(y)), Moments.of(h, o, np.ones((1, *o.shape)))
        if element in found:
            layers = found[element][0].merge(layers[0]), found[element][1].merge(layers[1])
        found[element] = layers
    rare = {element: first.atoms for element, (first, _) in sorted(found.items()) if first.atoms < minimum}
    kept = sorted(found.keys() - rare.keys())
    if not kept:
        counts = ", ".join(f"{chemical_symbols[element]} {count}" for element, count in rare.items()) or "none"
        raise InputError(f"patterns take {minimum} atoms of an element, and there are {counts}: give more molecules")
    first, last = zip(*(found[element] for element in kept), strict=True)
    gated = np.stack([moments.patterns(network.W) for moments in first])
    return Patterns(
        z=np.array(kept),
        atoms=np.array([moments.atoms for moments in first]),
        features=np.stack([moments.x for moments in first]),
        hidden=np.stack([moments.x for moments in last]),
        positive=gated[:, 0],
        negative=gated[:, 1],
        linear=np.stack([moments.linear().patterns(network.W)[0] for moments in first]),
        output=np.stack([moments.patterns(network.w)[0, 0] for moments in last]),
        rare=np.array(list(rare), dtype=np.int64),
        rare_atoms=np.array(list(rare.values()), dtype=np.int64),
        minimum=minimum,
        digest=digest(model),
    )
