"""What a model has learned about elements: principal components of their embeddings."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

from pygschnet.errors import InputError
from pygschnet.interpret.contributions import rank_correlation
from pygschnet.model import AtomisticModel
from pygschnet.representations import DTNN, SchNet

NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86)
"""Their atomic numbers, and 0: a period ends with each."""


class Embedding(NamedTuple):
    """Elements along the directions in which their embeddings differ most.

    Attributes:
        elements: atomic numbers of those that training has seen; the rows of all others are random.
        components: coordinates of the elements, the first component in column 0.
        explained: share of the variance that each component explains.
        directions: unit vectors of the components in feature space.
    """

    elements: Int[np.ndarray, "elements"]
    components: Float[np.ndarray, "elements components"]
    explained: Float[np.ndarray, "components"]
    directions: Float[np.ndarray, "components features"]


class Order(NamedTuple):
    """How the first component orders the elements: Spearman's ρ, NaN where it is not defined.

    Few elements prove little. Four random numbers are in order, up or down, once in twelve times; and the sign of
    the component has been chosen for ρ with Z to be positive.

    Attributes:
        elements: atomic numbers.
        with_z: of each model's first component with the atomic number.
        with_period: with the period.
        with_group: with the group.
        together: the mean rank of each element over the models, with atomic number, period and group.
        agreement: between each two models.
    """

    elements: Int[np.ndarray, "elements"]
    with_z: Float[np.ndarray, "models"]
    with_period: Float[np.ndarray, "models"]
    with_group: Float[np.ndarray, "models"]
    together: Float[np.ndarray, "3"]
    agreement: Float[np.ndarray, "models models"]


def embedding_components(model: AtomisticModel) -> Embedding:
    """Principal components of the embeddings: a_Z − ā = Σ_k c_Zk v_k, from a singular value decomposition.

    A rotation of feature space, by which seeds differ, changes nothing. The sign of the first component is that with
    which it grows with Z; of the others, that with which the largest coordinate is positive.

    Args:
        model: a trained SchNet or DTNN.

    Raises:
        InputError: for a representation without embeddings, or fewer than two trained elements.
    """
    if not isinstance(model.representation, SchNet | DTNN):
        raise InputError(f"{type(model.representation).__name__} has no embeddings of elements: SchNet and DTNN have")
    elements = model.head.elements.nonzero().flatten().cpu().numpy()
    if len(elements) < 2:
        raise InputError(f"components need two trained elements or more, this model has {len(elements)}: train it")
    rows = model.representation.embedding.weight.detach().double().cpu().numpy()[elements]
    left, length, directions = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    count = min(len(elements) - 1, rows.shape[1])  # centred rows span one dimension less
    left, length, directions = left[:, :count], length[:count], directions[:count]
    largest = left[np.abs(left).argmax(axis=0), np.arange(count)]
    along_z = left[:, 0] @ (elements - elements.mean())
    sign = np.sign(np.append(along_z if along_z != 0 else largest[0], largest[1:]))
    return Embedding(elements, left * length * sign, length**2 / (length**2).sum(), directions * sign[:, None])


def rank_correlations(models: Sequence[AtomisticModel]) -> Order:
    """Whether the first component orders the elements as the periodic table does, and whether seeds agree on it.

    Args:
        models: trained on the same elements; one or more.

    Raises:
        InputError: for no models, different elements, and as from `embedding_components`.
    """
    if not models:
        raise InputError("rank correlations need at least one model")
    found = [embedding_components(model) for model in models]
    elements = found[0].elements
    if any(not np.array_equal(each.elements, elements) for each in found):
        raise InputError("the models were trained on different elements: compare those of the same data")
    first = np.stack([each.components[:, 0] for each in found])
    table = np.stack([elements, *periodic_table(elements)]).astype(np.float64)
    count = len(models)
    of_models = rank_correlation(np.concatenate([first, table]))
    together = rank_correlation(np.concatenate([rankdata(first, axis=1).mean(axis=0, keepdims=True), table]))
    with_z, with_period, with_group = of_models[count:, :count]
    return Order(elements, with_z, with_period, with_group, together[0, 1:], of_models[:count, :count])


def periodic_table(z: Int[np.ndarray, "elements"]) -> tuple[Int[np.ndarray, "elements"], Int[np.ndarray, "elements"]]:
    """Period and group of elements; group 3 for all lanthanides and actinides.

    Args:
        z: atomic numbers.
    """
    period = np.searchsorted(NOBLE_GASES, z)
    place = z - np.array(NOBLE_GASES)[period - 1]
    gap = np.array([0, 16, 10, 10, 0, 0, -14, -14])[period]  # columns that the period leaves out, or has too many
    return period, np.where(place <= np.where(period == 1, 1, 2), place, np.maximum(place + gap, 3))
