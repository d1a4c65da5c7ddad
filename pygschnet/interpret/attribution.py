"""What in the features of an atom makes its energy, by gradients and by patterns; and how good the patterns are.

Below the features, where atoms talk to each other, `walks` explains; above them stands the energy of the atom itself.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float, Int
from torch_geometric.data import Data

from pygschnet.errors import InputError
from pygschnet.graph import edge_distances
from pygschnet.interpret.molecule import graph_of
from pygschnet.interpret.patterns import OutputNetwork, Patterns, features_by_element, responsibilities
from pygschnet.model import AtomisticModel
from pygschnet.representations import SchNet

METHODS = ("gradient", "gradient_input", "pattern_net", "pattern_attribution")
"""What `attribute` knows."""

GATES = ("none", "derivative")
"""How relevance passes the activation function: unchanged, or multiplied by ssp′."""


class Attribution(NamedTuple):
    """An explanation of the energies of atoms by their features; features have no meaning of their own.

    Attributes:
        relevance: [atoms, features]. With "gradient" the slope ∂E_i/∂x_i, in eV per unit of feature; with
            "gradient_input" and "pattern_attribution" shares of an energy, in eV; with "pattern_net" that part of
            x_i − ⟨x⟩ that the output network reads, in units of features.
        explained: the energies that the shares of each atom divide up, [atoms], eV: E_i − ⟨E⟩, the mean over atoms of
            the same element, with "pattern_attribution"; σ·o_i, which is E_i without the constants μ and e0, with
            "gradient_input"; None with the others, whose numbers do not add up to an energy.
        missing: explained − Σ relevance, [atoms], eV: what the method leaves unexplained, zero where it conserves.
        method: which one.
    """

    relevance: Float[np.ndarray, "atoms features"]
    explained: Float[np.ndarray, "atoms"] | None
    missing: Float[np.ndarray, "atoms"] | None
    method: str


def attribute(
    model: AtomisticModel,
    molecule: Data | Atoms,
    method: str = "pattern_attribution",
    patterns: Patterns | None = None,
    gate: str = "none",
) -> Attribution:
    """Divide the energy of every atom among its features x_i, or say which of them it reads.

    From o = w·ssp(y) + c, y = W x + b, and E_i = σ o_i + …:

    - "gradient": σ Wᵀ(w ∘ ssp′(y)). Says what a small change of a feature would do, not what the feature did; it is
      the filter, which also has to cancel what says nothing of the energy.
    - "gradient_input": the gradient times x. Divides up the energy only as far as the network is linear.
    - "pattern_net": o_i − ⟨o⟩ projected back through the patterns in place of the weights, times ssp′(y) on the way.
    - "pattern_attribution": σ(o_i − ⟨o⟩) divided by weights times patterns, unchanged through the activation function;
      nothing is lost. It tells which features carried the difference of this atom to the mean atom of its element, as
      far as those features vary with the output linearly, and by association: a pattern is no cause.

    Neurons of the hidden layer have the pattern π a_+ + (1 − π) a_−, π = ssp′(y).

    Args:
        model: with an `Atomwise` head with ssp.
        molecule: one, or a batch; its atoms are explained one by one.
        method: one of those above.
        patterns: of this model, from `estimate_patterns`, for the last two methods.
        gate: of "pattern_attribution": "none", or "derivative" to multiply by ssp′(y) for comparison, as released
            code does for ReLU; then relevance is lost.

    Raises:
        InputError: for other heads or names, missing patterns, patterns of another model, and elements they lack.

    Source: arXiv:1705.05598.
    """
    if method not in METHODS or gate not in GATES:
        raise InputError(
            f"there is no method {method!r} with gate {gate!r}: methods are {', '.join(METHODS)}, gates "
            f"{', '.join(GATES)}"
        )
    if gate != "none" and method != "pattern_attribution":
        raise InputError(f'gate={gate!r} is a variant of "pattern_attribution", not of {method!r}')
    network, sigma = OutputNetwork.of(model), float(model.head.sigma)
    data = graph_of(model, molecule)
    with torch.no_grad():
        x, z = model.representation(data).cpu().double().numpy(), data.z.cpu().numpy()
    y, h = network.hidden(x)
    on, off = responsibilities(y)
    if method in ("gradient", "gradient_input"):
        gradient = sigma * (network.w * on) @ network.W
        if method == "gradient":
            return Attribution(gradient, None, None, method)
        explained = sigma * (h @ network.w[0] + network.c)
        return Attribution(gradient * x, explained, explained - (gradient * x).sum(1), method)
    if patterns is None:
        raise InputError(f"{method!r} needs patterns: make them with estimate_patterns")
    patterns.check(model)
    row = np.array([patterns.row(element) for element in z.tolist()])
    difference = (h - patterns.hidden[row]) @ network.w[0]  # o − ⟨o⟩
    explained = sigma * difference
    if method == "pattern_net":
        neurons, through = patterns.output[row] * difference[:, None] * on, np.ones_like(network.W)
    else:
        neurons, through = patterns.output[row] * network.w * explained[:, None], network.W
        neurons = neurons * on if gate == "derivative" else neurons
    relevance = np.empty_like(x)
    for r in np.unique(row):
        of, positive, negative = row == r, through * patterns.positive[r], through * patterns.negative[r]
        relevance[of] = (neurons * on)[of] @ positive + (neurons * off)[of] @ negative
    if method == "pattern_net":
        return Attribution(relevance, None, None, method)
    return Attribution(relevance, explained, explained - relevance.sum(1), method)


def sensitivity(model: AtomisticModel, molecule: Data | Atoms) -> Float[np.ndarray, "atoms"]:
    """‖∂E/∂x_i⁰‖: how much the energy would change with the embedding of each atom, in eV per unit of embedding.

    The simplest of all explanations, for comparison. It is a slope in a space without a scale of its own, says
    nothing of what the atom contributes to the energy, and does not add up to anything.

    Args:
        model: whose representation is a SchNet.
        molecule: one, or a batch.

    Raises:
        InputError: for other representations.
    """
    schnet = model.representation
    if type(schnet) is not SchNet:
        raise InputError(f"this needs the embeddings of a SchNet, and the model has a {type(schnet).__name__}")
    with torch.inference_mode(False), torch.enable_grad():
        data = graph_of(model, molecule)
        x0 = schnet.embedding(data.z).detach().requires_grad_()
        x = x0
        for block, filters in zip(schnet.blocks, schnet.filters_at(edge_distances(data).to(x0)), strict=True):
            x = x + block(x, data.edge_index, filters)
        energy, _ = model.head(x, data)
        gradient = torch.autograd.grad(energy.sum(), x0)[0]
    return gradient.double().norm(dim=1).cpu().numpy()


class SecondMoments(NamedTuple):
    """Sums over atoms that tell how good patterns are: of inputs x̃ and of the gated outputs u = π ỹ of each neuron.

    Attributes:
        atoms: how many.
        x: Σ x̃, [inputs].
        u: Σ u, [gates, outputs].
        xx: Σ x̃ x̃ᵀ, [inputs, inputs].
        ux: Σ u x̃, [gates, outputs, inputs].
        uu: Σ u u′, of the same neuron, [gates, gates, outputs].
    """

    atoms: int
    x: Float[np.ndarray, "inputs"]
    u: Float[np.ndarray, "gates outputs"]
    xx: Float[np.ndarray, "inputs inputs"]
    ux: Float[np.ndarray, "gates outputs inputs"]
    uu: Float[np.ndarray, "gates gates outputs"]

    @classmethod
    def of(cls, x: Float[np.ndarray, "atoms inputs"], u: Float[np.ndarray, "gates atoms outputs"]) -> "SecondMoments":
        """Those of some atoms, with x and u measured from where their patterns measure them."""
        return cls(len(x), x.sum(0), u.sum(1), x.T @ x, u.swapaxes(1, 2) @ x, np.einsum("gnk,hnk->ghk", u, u))

    def merge(self, other: "SecondMoments") -> "SecondMoments":
        """Those of the atoms of both."""
        return SecondMoments(*(a + b for a, b in zip(self, other, strict=True)))

    def quality(self, patterns: Float[np.ndarray, "gates outputs inputs"]) -> Float[np.ndarray, "outputs"]:
        """ρ = 1 − max_v corr(y, vᵀd) of each neuron, with d = x̃ − Σ_π a_π u_π what patterns leave over.

        v is found by least squares, so the correlation is √(cᵀ Σ⁺ c / var y), with Σ the covariance of d and
        c = cov(d, y). NaN for neurons whose output does not vary.
        """
        n, a = self.atoms, patterns
        xx = self.xx / n - np.outer(self.x, self.x) / n**2
        ux = self.ux / n - self.u[..., None] * self.x / n**2
        uu = self.uu / n - self.u[:, None] * self.u / n**2
        cross, variance = np.einsum("gki,gkj->kij", a, ux), uu.sum((0, 1))
        residual = xx - cross - cross.swapaxes(1, 2) + np.einsum("gki,hkj,ghk->kij", a, a, uu)
        values, vectors = np.linalg.eigh(residual)
        along = np.einsum("kji,kj->ki", vectors, ux.sum(0) - np.einsum("gki,ghk->ki", a, uu))
        kept = values > 1e-12 * np.trace(xx)  # wᵀd = 0 always: one eigenvalue is zero, give or take a rounding error
        square = np.where(kept, along**2 / np.where(kept, values, 1.0), 0.0).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(variance > 0, 1 - np.sqrt(np.minimum(square / variance, 1.0)), np.nan)


class Quality(NamedTuple):
    """How much of what the neurons of the output network read is in the estimated signal: ρ, 1 at best.

    1 − ρ is the largest correlation of a neuron's output with any linear combination of what the estimator takes for
    noise. It judges the separation of signal and noise, not whether an explanation is right, and chance alone lowers
    it by about √(features/atoms).

    Attributes:
        z: the elements.
        atoms: how many atoms of each were held out.
        hidden: by estimator, ρ of each neuron of the hidden layer, [elements, neurons]. "S_w": along the weights;
            "S_a": one pattern; "S_a+-": two, as `attribute` uses them; "S_x", which takes all for signal and leaves
            nothing to judge, is NaN: not informative.
        output: the same of the last layer, [elements], without "S_a+-", which a linear layer has not.
    """

    z: Int[np.ndarray, "elements"]
    atoms: Int[np.ndarray, "elements"]
    hidden: dict[str, Float[np.ndarray, "elements neurons"]]
    output: dict[str, Float[np.ndarray, "elements"]]


def signal_quality(model: AtomisticModel, patterns: Patterns, molecules: Iterable[Data | Atoms]) -> Quality:
    """ρ of signal estimators on molecules that the patterns were not estimated from, in one pass.

    Args:
        model: the one of the patterns.
        patterns: from `estimate_patterns`; elements that they lack are passed over.
        molecules: PyG batches or single molecules, held out.

    Raises:
        InputError: for patterns of another model, or if no atom has an element of theirs.

    Source: arXiv:1705.05598, quality of signal estimators.
    """
    patterns.check(model)
    network, found = OutputNetwork.of(model), dict[int, tuple[SecondMoments, SecondMoments]]()
    for element, x in features_by_element(model, molecules):
        if element not in patterns.z:
            continue
        row = patterns.row(element)
        y, h = network.hidden(x)
        dx, dh = x - patterns.features[row], h - patterns.hidden[row]
        layers = (
            SecondMoments.of(dx, responsibilities(y) * (dx @ network.W.T)),
            SecondMoments.of(dh, (dh @ network.w.T)[None]),
        )
        if element in found:
            layers = found[element][0].merge(layers[0]), found[element][1].merge(layers[1])
        found[element] = layers
    if not found:
        raise InputError("no atom of these molecules has an element that there are patterns of")
    z = np.array(sorted(found))
    first, last = zip(*(found[element] for element in z.tolist()), strict=True)
    rows = [patterns.row(element) for element in z.tolist()]
    of_weights = [w / (np.square(w).sum(1, keepdims=True) + np.finfo(float).tiny) for w in (network.W, network.w)]
    gated = np.stack([patterns.positive, patterns.negative], axis=1)

    def of_hidden(pattern: np.ndarray) -> Float[np.ndarray, "elements neurons"]:
        """With the same pattern for both gates, or one for each."""
        return np.stack([m.quality(np.broadcast_to(a, (2, *a.shape[1:]))) for m, a in zip(first, pattern, strict=True)])

    def of_output(pattern: np.ndarray) -> Float[np.ndarray, "elements"]:
        return np.array([m.quality(a[None, None])[0] for m, a in zip(last, pattern, strict=True)])

    hidden = {
        "S_x": np.full((len(z), len(network.W)), np.nan),
        "S_w": of_hidden(np.stack([of_weights[0][None]] * len(z))),
        "S_a": of_hidden(patterns.linear[rows][:, None]),
        "S_a+-": of_hidden(gated[rows]),
    }
    output = {
        "S_x": np.full(len(z), np.nan),
        "S_w": of_output(np.repeat(of_weights[1], len(z), axis=0)),
        "S_a": of_output(patterns.output[rows]),
    }
    return Quality(z, np.array([moments.atoms for moments in first]), hidden, output)
