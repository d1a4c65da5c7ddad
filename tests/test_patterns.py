"""PatternNet and PatternAttribution: estimators against published formulas and closed forms, and conservation."""

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data

import pygschnet
from pygschnet import AtomisticModel, Atomwise, SchNet
from pygschnet.interpret.attribution import SecondMoments, attribute, sensitivity, signal_quality
from pygschnet.interpret.patterns import Moments, OutputNetwork, Patterns, estimate_patterns, responsibilities
from tests.structures import bare, batch_of, ethanol, graph, molecules, randomise, rotations


def random_molecules(count: int, seed: int) -> list[Data]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        sites = np.stack(np.unravel_index(rng.permutation(27)[:7], (3, 3, 3)), axis=-1) * 1.3
        pos = torch.from_numpy(sites + rng.uniform(-0.4, 0.4, sites.shape))
        found.append(Data(z=torch.from_numpy(rng.choice([1, 6, 7, 8], 7)), pos=pos))
    return found


@pytest.fixture(scope="module")
def model() -> AtomisticModel:
    schnet = SchNet(12, 8, 2, gaussians=8, gaussian_stop=3.0, gamma=None, cutoff=3.0, cutoff_form="cosine")
    head = Atomwise(12, scale=3.0, shift=0.7, references={"H": -13.6, "C": -1029.0})
    return randomise(AtomisticModel(schnet, head)).double().eval()


@pytest.fixture(scope="module")
def training(model) -> list[Data]:
    return [batch_of(random_molecules(50, seed), model) for seed in range(4)]


@pytest.fixture(scope="module")
def patterns(model, training) -> Patterns:
    return estimate_patterns(model, training, minimum=200)


def layer(atoms: int = 500, seed: int = 0, offset: float = 0.3):
    """Correlated inputs with means, weights, and outputs that are on and off."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(atoms, 5)) @ rng.normal(size=(5, 5)) + rng.normal(size=5)
    weight = rng.normal(size=(3, 5))
    return x, weight, x @ weight.T + offset


def ones(y) -> np.ndarray:
    return np.ones((1, *y.shape))


def toy(atoms: int):
    """Signal along (1, 0), distractor along (1, 1)."""
    signal, distractor = np.random.default_rng(0).normal(size=(2, atoms, 1))
    x = signal * [1.0, 0.0] + distractor * [1.0, 1.0]
    weight = np.array([[1.0, -1.0]])
    return x, weight, x @ weight.T


def test_toy_of_the_paper():
    x, weight, y = toy(200_000)
    found = Moments.of(x, y, ones(y)).patterns(weight)[0]
    assert found == pytest.approx(np.array([[1.0, 0.0]]), abs=0.01)
    gated = Moments.of(x, y, responsibilities(y)).patterns(weight)
    assert gated == pytest.approx(np.array([[[1.0, 0.0]]] * 2), abs=0.01)
    # along the weights (½, −½) half of the signal stays in what should be noise: corr = ½/√(1 + ¼)
    moments = SecondMoments.of(x, y[None])
    assert moments.quality(weight[None] / 2) == pytest.approx(1 - 0.5 / 1.25**0.5, abs=0.01)
    assert moments.quality(found[None]) == pytest.approx(1.0, abs=1e-6)


def test_patterns_answer_with_one():
    """wᵀa = 1, for every mixture of on and off."""
    x, weight, y = layer()
    moments = Moments.of(x, y, responsibilities(y))
    positive, negative = moments.patterns(weight)
    for pattern in (positive, negative, moments.linear().patterns(weight)[0]):
        assert (weight * pattern).sum(1) == pytest.approx(1.0, abs=1e-12)
    on, off = responsibilities(y)[..., None]
    assert (weight * (on * positive + off * negative)).sum(-1) == pytest.approx(1.0, abs=1e-12)
    assert not np.allclose(positive, negative, atol=1e-2)


def test_linear_estimator_is_the_regression():
    x, weight, y = layer()
    covariance = np.cov(x.T)
    expected = weight @ covariance / np.einsum("ki,ij,kj->k", weight, covariance, weight)[:, None]
    for gates in (ones(y), responsibilities(y)):
        assert Moments.of(x, y, gates).linear().patterns(weight)[0] == pytest.approx(expected, rel=1e-10)


def test_sharp_responsibilities_give_the_published_estimator():
    x, weight, y = layer()
    x = x - x.mean(0)  # the published formula depends on the origin of x; ours is the mean
    found = Moments.of(x, y, responsibilities(1e6 * y)).patterns(weight)
    for pattern, on in zip(found, (y > 0, y <= 0), strict=True):
        for k in range(3):
            some = x[on[:, k]]
            difference = (some * y[on[:, k], k, None]).mean(0) - some.mean(0) * y[:, k].mean()
            assert pattern[k] == pytest.approx(difference / (weight[k] @ difference), rel=1e-8)


def test_constants_added_to_outputs_and_inputs_do_not_matter():
    x, weight, y = layer()
    gates = responsibilities(y)
    expected = Moments.of(x, y, gates).patterns(weight)
    assert Moments.of(x + 3.0, y - 7.0, gates).patterns(weight) == pytest.approx(expected, rel=1e-10)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, 499), max_size=6, unique=True))
def test_streaming_is_one_batch(cuts):
    x, weight, y = layer()
    order = np.argsort(y[:, 0])  # so that the first batch says little of the others
    x, y, gates = x[order], y[order], responsibilities(y[order])
    edges = [0, *sorted(cuts), 500]
    parts = [Moments.of(x[a:b], y[a:b], gates[:, a:b]) for a, b in itertools.pairwise(edges)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    dx, dy = x - x.mean(0), y - y.mean(0)
    expected = np.einsum("gnk,nk,ni->gki", gates, dy, dx)
    assert merged.atoms == 500
    assert merged.gate_xy == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert merged.gate_x == pytest.approx(np.einsum("gnk,ni->gki", gates, dx), rel=1e-9, abs=1e-9)
    assert merged.gate_y == pytest.approx(np.einsum("gnk,nk->gk", gates, dy), rel=1e-9, abs=1e-9)
    assert merged.patterns(weight) == pytest.approx(Moments.of(x, y, gates).patterns(weight), rel=1e-9)


def test_large_offsets_cost_no_digits():
    """Numbers that the offset leaves exact; without a common origin Σxy would lose all digits."""
    x, weight, _ = layer()
    x, weight = np.round(x * 2**12) / 2**12, np.round(weight * 2**8) / 2**8
    y = x @ weight.T
    gates, offset = responsibilities(y), 2.0**30
    found = []
    for by in (0.0, offset):
        parts = [Moments.of(x[a::5] + by, y[a::5] + by, gates[:, a::5]) for a in range(5)]
        merged = parts[0]
        for part in parts[1:]:
            merged = merged.merge(part)
        found.append(merged.gate_xy)
    assert found[1] == pytest.approx(found[0], rel=1e-6)


def test_dead_neurons_have_no_pattern():
    x, weight, y = layer()
    weight[0] = 0.0
    found = Moments.of(x, x @ weight.T + 0.1, responsibilities(y)).patterns(weight)
    assert not found[:, 0].any() and found[:, 1:].any()
    still = np.repeat(x[:1], 50, axis=0)  # rounding errors are no signal
    parts = [Moments.of(still[a : a + 7], (still @ weight.T)[a : a + 7], responsibilities(y[:7])) for a in (0, 7)]
    assert not parts[0].merge(parts[1]).patterns(weight).any()


def best_correlation(residual, y) -> float:
    """ρ by its definition."""
    residual = residual - residual.mean(0)
    best = residual @ np.linalg.lstsq(residual, y - y.mean(), rcond=1e-7)[0]
    return float(1 - np.corrcoef(best, y)[0, 1])


def test_quality_is_the_best_correlation_with_the_residual():
    x, weight, y = layer()
    x, y = x - x[:100].mean(0), y - y[:100].mean(0)
    gates = responsibilities(y + 0.4)
    parts = [SecondMoments.of(x[a::2], (gates * y)[:, a::2]) for a in (0, 1)]
    patterns = Moments.of(x[:100], y[:100], gates[:, :100]).patterns(weight)  # of other data
    found = parts[0].merge(parts[1]).quality(patterns)
    for k in range(3):
        residual = x - np.einsum("gn,gi->ni", gates[..., k] * y[:, k], patterns[:, k])
        assert found[k] == pytest.approx(best_correlation(residual, y[:, k]), abs=1e-8)
        assert found[k] < 0.99


def test_quality_of_a_model(model, training, patterns, monkeypatch):
    monkeypatch.setattr("pygschnet.interpret.patterns.ATOMS", 400)
    own = signal_quality(model, patterns, training)
    assert own.hidden["S_a"] == pytest.approx(1.0, abs=1e-6) and own.output["S_a"] == pytest.approx(1.0, abs=1e-6)
    data = batch_of(random_molecules(100, 9), model)
    held_out = signal_quality(model, patterns, data.to_data_list())
    assert held_out.z.tolist() == [1, 6, 7, 8] and held_out.atoms.sum() == 700
    assert np.isnan(held_out.hidden["S_x"]).all() and np.isnan(held_out.output["S_x"]).all()
    for estimator in ("S_a", "S_a+-"):
        assert (held_out.hidden[estimator] > held_out.hidden["S_w"]).mean() > 0.9
        assert held_out.hidden[estimator].max() < 0.99
    assert (held_out.output["S_a"] > held_out.output["S_w"]).all()
    network, of = OutputNetwork.of(model), data.z.numpy() == 7
    with torch.no_grad():
        x = model.representation(data).numpy()[of]
    y, h = network.hidden(x)
    dx, dh = x - patterns.features[2], h - patterns.hidden[2]
    for k in range(6):
        on, reading = 1 / (1 + np.exp(-y[:, k, None])), (dx @ network.W[k])[:, None]
        signals = {
            "S_w": network.W[k] / (network.W[k] @ network.W[k]),
            "S_a": patterns.linear[2, k],
            "S_a+-": on * patterns.positive[2, k] + (1 - on) * patterns.negative[2, k],
        }
        for estimator, pattern in signals.items():
            expected = best_correlation(dx - pattern * reading, y[:, k])
            assert held_out.hidden[estimator][2, k] == pytest.approx(expected, abs=1e-6)
    rest = dh - patterns.output[2] * (dh @ network.w.T)
    assert held_out.output["S_a"][2] == pytest.approx(best_correlation(rest, dh @ network.w[0]), abs=1e-6)


def test_patterns_of_a_model_are_those_of_its_layers(model, training, patterns):
    network = OutputNetwork.of(model)
    data = Batch.from_data_list([molecule for batch in training for molecule in batch.to_data_list()])
    with torch.no_grad():
        x = model.representation(pygschnet.RadiusGraph(3.0)(data)).numpy()
        y, h = network.hidden(x)
        torch.testing.assert_close(model.head.dense_1(torch.from_numpy(x)), torch.from_numpy(y))
    for row, z in enumerate([1, 6, 7, 8]):
        of = data.z.numpy() == z
        assert patterns.atoms[row] == of.sum() and patterns.row(z) == row
        moments = Moments.of(x[of], y[of], responsibilities(y[of]))
        assert np.stack([patterns.positive[row], patterns.negative[row]]) == pytest.approx(moments.patterns(network.W))
        last = Moments.of(h[of], h[of] @ network.w.T, np.ones((1, of.sum(), 1)))
        assert patterns.output[row] == pytest.approx(last.patterns(network.w)[0, 0])
        assert patterns.features[row] == pytest.approx(x[of].mean(0))
        assert patterns.hidden[row] == pytest.approx(h[of].mean(0))


def test_batches_molecules_and_structures_give_the_same(model, monkeypatch):
    data = random_molecules(40, 0)
    some = estimate_patterns(model, [batch_of(data, model)], minimum=20)
    monkeypatch.setattr("pygschnet.interpret.patterns.ATOMS", 50)  # so that there are sums to merge, and a rest
    single = estimate_patterns(model, (each.clone() for each in data), minimum=20)
    atoms = estimate_patterns(model, (Atoms(each.z.numpy(), each.pos.numpy()) for each in data), minimum=20)
    for other in (single, atoms):
        for name, values in some._asdict().items():
            if name in ("minimum", "digest"):
                assert getattr(other, name) == values
            else:
                assert getattr(other, name) == pytest.approx(values, rel=1e-7, abs=1e-9), name


@pytest.mark.parametrize("method", ["pattern_net", "pattern_attribution"])
def test_attribution_is_the_definition(model, patterns, method):
    """Neuron by neuron, with the pattern of each mixed as its output says."""
    network, data = OutputNetwork.of(model), graph(ethanol(), model)
    found = attribute(model, data, method, patterns)
    with torch.no_grad():
        x = model.representation(data).numpy()
    y, h = network.hidden(x)
    expected = np.zeros_like(x)
    for i, z in enumerate(data.z.tolist()):
        row = patterns.row(z)
        output = network.w[0] @ (h[i] - patterns.hidden[row])
        for k in range(len(network.W)):
            on = 1 / (1 + np.exp(-y[i, k]))
            pattern = on * patterns.positive[row, k] + (1 - on) * patterns.negative[row, k]
            assert network.W[k] @ pattern == pytest.approx(1.0, abs=1e-10)
            if method == "pattern_net":
                expected[i] += patterns.output[row, k] * output * on * pattern
            else:
                expected[i] += 3.0 * network.w[0, k] * patterns.output[row, k] * output * network.W[k] * pattern
    assert found.relevance == pytest.approx(expected, rel=1e-10)
    assert found.method == method


def test_pattern_attribution_conserves(model, patterns, training):
    data = graph(ethanol(), model)
    found = attribute(model, data, "pattern_attribution", patterns)
    atomic = model(data, forces=False).atomic_energies.numpy(force=True)
    means = []
    for z in data.z.tolist():
        with torch.no_grad():
            energies = [model(batch, forces=False).atomic_energies[batch.z == z] for batch in training]
        means.append(float(torch.cat(energies).mean()))
    assert found.explained == pytest.approx(atomic - means, rel=1e-8, abs=1e-10)
    assert found.relevance.sum(1) == pytest.approx(found.explained, rel=1e-10)
    assert np.abs(found.missing).max() < 1e-10 * np.abs(found.explained).max()
    derivative = attribute(model, data, "pattern_attribution", patterns, gate="derivative")  # the negative control
    assert np.abs(derivative.missing).max() > 0.1 * np.abs(found.explained).max()
    assert derivative.missing == pytest.approx(derivative.explained - derivative.relevance.sum(1))


def test_gradients_are_those_of_autograd(model):
    data = graph(ethanol(), model)
    x = model.representation(data).detach().requires_grad_()
    _, atomic = model.head(x, data)
    (gradient,) = torch.autograd.grad(atomic.sum(), x)
    assert attribute(model, data, "gradient").relevance == pytest.approx(gradient.numpy(), rel=1e-10)
    found = attribute(model, data, "gradient_input")
    assert found.relevance == pytest.approx((gradient * x.detach()).numpy(), rel=1e-10)
    constants = model.head.mu + model.head.reference_energies[data.z]
    assert found.explained == pytest.approx((atomic.detach() - constants).numpy(), rel=1e-10)
    assert found.missing == pytest.approx(found.explained - found.relevance.sum(1), rel=1e-10)
    assert attribute(model, data, "gradient").missing is None


def test_sensitivity_without_gradients(model):
    """Which it enables for itself."""
    expected = sensitivity(model, ethanol())
    with torch.no_grad():
        assert np.array_equal(sensitivity(model, ethanol()), expected)
    with torch.inference_mode():
        assert np.array_equal(sensitivity(model, ethanol()), expected)


def test_sensitivity_is_the_gradient_by_embeddings(model):
    data, kept = graph(ethanol(), model), []
    hook = model.representation.embedding.register_forward_hook(lambda module, inputs, output: kept.append(output))
    energy = model(data, forces=False).energy.sum()
    hook.remove()
    (gradient,) = torch.autograd.grad(energy, kept)
    assert sensitivity(model, data) == pytest.approx(gradient.norm(dim=1).numpy(), rel=1e-10)
    methanol = graph(Atoms("COH4", np.random.default_rng(0).normal(size=(6, 3)) * 2), model)
    alone = np.concatenate([sensitivity(model, each) for each in (data, methanol)])
    assert sensitivity(model, Batch.from_data_list([data, methanol])) == pytest.approx(alone, rel=1e-10)


@settings(max_examples=10, deadline=None)
@given(data=molecules(2), rotation=rotations())
def test_rotation_and_permutation(model, patterns, data, rotation):
    order = torch.randperm(len(data.z), generator=torch.Generator().manual_seed(0))

    def views(z, pos) -> list[np.ndarray]:
        here = bare(z, pos, model)
        found = [attribute(model, here, method, patterns).relevance for method in ("gradient", "pattern_attribution")]
        return [*found, attribute(model, here, "pattern_net", patterns).relevance, sensitivity(model, here)]

    for at_first, rotated, permuted in zip(
        views(data.z, data.pos),
        views(data.z, data.pos @ rotation.T),
        views(data.z[order], data.pos[order]),
        strict=True,
    ):
        assert rotated == pytest.approx(at_first, rel=1e-7, abs=1e-9)
        assert permuted == pytest.approx(at_first[order.numpy()], rel=1e-7, abs=1e-9)


def test_files(model, patterns, tmp_path):
    path = tmp_path / "patterns.npz"
    patterns.save(path)
    again = Patterns.load(path)
    for name, values in patterns._asdict().items():
        assert np.array_equal(getattr(again, name), values), name
    assert again.minimum == 200 and again.digest == patterns.digest and [*tmp_path.iterdir()] == [path]
    expected = attribute(model, ethanol(), patterns=patterns).relevance
    assert np.array_equal(attribute(model, ethanol(), patterns=again).relevance, expected)
    content = path.read_bytes()
    for damaged in (content[:-100], content[:400] + b"\x00" * 40 + content[440:], b"", b"no archive"):
        path.write_bytes(damaged)
        with pytest.raises(pygschnet.InputError, match="no file of patterns"):
            Patterns.load(path)
    np.savez(path, z=np.ones(3))
    with pytest.raises(pygschnet.InputError, match="no file of patterns"):
        Patterns.load(path)
    with pytest.raises(pygschnet.InputError, match="no file of patterns"):
        Patterns.load(tmp_path / "absent.npz")


def test_patterns_belong_to_a_model(model, patterns):
    schnet = SchNet(12, 8, 2, gaussians=8, gaussian_stop=3.0, gamma=None, cutoff=3.0, cutoff_form="cosine")
    single = randomise(AtomisticModel(schnet, Atomwise(12)), seed=1)
    own = estimate_patterns(single, [random_molecules(1, 0)[0]], minimum=1)
    own.check(single.double())  # the same numbers
    for part in (single.representation.blocks[0].dense.bias, single.head.dense_2.weight):
        with torch.no_grad():
            part.view(-1)[0] += 1e-3
        with pytest.raises(pygschnet.InputError, match="other weights"):
            attribute(single, ethanol(), patterns=own)
        with torch.no_grad():
            part.view(-1)[0] -= 1e-3
    with pytest.raises(pygschnet.InputError, match="other weights"):
        signal_quality(single, patterns, [ethanol()])


def test_rare_elements_are_left_out(model):
    data = [batch_of([*random_molecules(20, 0), Data(z=torch.tensor([9, 1]), pos=torch.eye(3).double()[:2])], model)]
    few = estimate_patterns(model, data, minimum=20)
    assert few.z.tolist() == [1, 6, 7, 8] and few.rare.tolist() == [9] and few.rare_atoms.tolist() == [1]
    with pytest.raises(pygschnet.InputError, match="no patterns of F: they were estimated from 1 of its atoms"):
        attribute(model, Atoms("FH", [[0, 0, 0], [0, 0, 0.9]]), patterns=few)
    with pytest.raises(pygschnet.InputError, match="no patterns of S: they were estimated from 0 of its atoms"):
        attribute(model, Atoms("S"), patterns=few)
    assert signal_quality(model, few, data).z.tolist() == [1, 6, 7, 8]
    with pytest.raises(pygschnet.InputError, match="no atom of these molecules"):
        signal_quality(model, few, [Atoms("S")])
    with pytest.raises(pygschnet.InputError, match="take 1000 atoms of an element, and there are H 3, C 2"):
        estimate_patterns(model, [Atoms("C2H3", np.random.default_rng(0).normal(size=(5, 3)))])


def test_refusals(model):
    with pytest.raises(pygschnet.InputError, match="needs patterns"):
        attribute(model, ethanol())
    with pytest.raises(pygschnet.InputError, match="no method 'lrp'"):
        attribute(model, ethanol(), "lrp")
    with pytest.raises(pygschnet.InputError, match='a variant of "pattern_attribution"'):
        attribute(model, ethanol(), "gradient", gate="derivative")
    for head in (Atomwise(8, activation="silu"), Atomwise(8, aggregation="mean")):
        other = AtomisticModel(SchNet(8, 6, 1), head)
        with pytest.raises(pygschnet.InputError, match="attributions need an output network"):
            attribute(other, ethanol(), "gradient")
        with pytest.raises(pygschnet.InputError, match="attributions need an output network"):
            estimate_patterns(other, [ethanol()])
