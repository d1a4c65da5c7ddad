"""DTNN against its equations: a loop over atoms in NumPy, the third-order tensor of the paper, and shared weights."""

import copy

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from hypothesis import given, settings
from torch.nn import functional as F

import pygschnet
from pygschnet import AtomisticModel, Atomwise, InputError, from_atoms
from pygschnet.graph import edge_distances
from pygschnet.interpret.embedding import embedding_components
from pygschnet.interpret.probe import local_chemical_potential
from pygschnet.representations import DTNN
from tests.structures import bare, ethanol, graph, make_model, molecules, randomise

laws = settings(max_examples=6, deadline=None)


def close(a, b, tolerance=1e-11):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def weights(dtnn):
    """c_Z, W_cf, b₁, W_df, b₂ and W_fc, in NumPy."""
    layer = dtnn.interaction
    parts = (dtnn.embedding.weight, layer.atom_factor.weight, layer.atom_factor.bias, dtnn.distance_factor.weight,
             dtnn.distance_factor.bias, layer.from_factors.weight)  # fmt: skip
    return [part.detach().numpy() for part in parts]


def of_the_paper(dtnn, z, pos, sigma, message):
    """Features from loops over atoms; `message` gives v_ij from c_j and d̂_ij."""
    c = weights(dtnn)[0][z]
    centres = torch.linspace(dtnn.gaussian_start, dtnn.gaussian_stop, dtnn.gaussians).numpy()  # as rounded there
    for _ in range(dtnn.interactions):
        after = c.copy()
        for i in range(len(z)):
            for j in range(len(z)):
                d = np.sqrt(((pos[i] - pos[j]) ** 2).sum())
                if i != j and d < (dtnn.cutoff or np.inf):
                    x = d / dtnn.cutoff if dtnn.cutoff else 0.0
                    f = 1 - 6 * x**5 + 15 * x**4 - 10 * x**3
                    after[i] += f * message(c[j], np.exp(-((d - centres) ** 2) / (2 * sigma**2)))
        c = after
    return torch.from_numpy(c)


@laws
@given(molecule=molecules(high=6))
@pytest.mark.parametrize("name", ["dtnn", "dtnn_code", "dtnn_short"])
def test_equal_to_the_equations(name, molecule):
    model = make_model(name)
    dtnn = model.representation
    _, w_cf, b_1, w_df, b_2, w_fc = weights(dtnn)
    sigma = 0.2 if name != "dtnn_short" else 2.5 / 11

    def message(c_j, d_ij):
        return np.tanh(w_fc @ ((w_cf @ c_j + b_1) * (w_df @ d_ij + b_2)))

    data = bare(molecule.z, molecule.pos, model)
    close(dtnn(data), of_the_paper(dtnn, molecule.z.numpy(), molecule.pos.numpy(), sigma, message))


def test_equal_to_the_tensor_before_its_factorisation():
    """v_k = tanh(c_jᵀ V_k d̂_ij + (W^c c_j)_k + (W^d d̂_ij)_k + b_k), with V_k of a rank of no more than the factors."""
    dtnn = make_model("dtnn").representation
    _, w_cf, b_1, w_df, b_2, w_fc = weights(dtnn)
    v = np.einsum("kf,fb,fg->kbg", w_fc, w_cf, w_df)
    w_c, w_d, b = w_fc @ (b_2[:, None] * w_cf), w_fc @ (b_1[:, None] * w_df), w_fc @ (b_1 * b_2)

    def message(c_j, d_ij):
        return np.tanh(np.einsum("b,kbg,g->k", c_j, v, d_ij) + w_c @ c_j + w_d @ d_ij + b)

    data = graph(molecule("CH3OH"), make_model("dtnn"))
    close(dtnn(data), of_the_paper(dtnn, data.z.numpy(), data.pos.numpy(), 0.2, message))


@pytest.mark.parametrize("interactions", [1, 2, 3, 7])
def test_the_number_of_passes_costs_no_parameters(interactions):
    """B = 30 features of 99 elements and row 0, 60 factors, 100 Gaussians, output 30 → 15 → 1."""
    model = AtomisticModel(DTNN(interactions=interactions), Atomwise(30, activation="tanh"))
    of_passes = (30 * 60 + 60) + (100 * 60 + 60) + 60 * 30
    assert sum(p.numel() for p in model.parameters()) == 100 * 30 + of_passes + (30 * 15 + 15) + (15 + 1)


def test_all_passes_share_their_weights():
    """The gradient of shared weights is the sum of those of three layers with the same weights, each not zero."""
    dtnn, data = make_model("dtnn").representation, graph(ethanol(), make_model("dtnn"))
    towards = torch.randn(9, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layers = [copy.deepcopy(dtnn.interaction) for _ in range(3)]
    c = dtnn.embedding(data.z)
    for layer in layers:
        expansion = torch.exp(-((edge_distances(data).unsqueeze(1) - dtnn.basis.centres) ** 2) / (2 * 0.2**2))
        c = c + layer(c, data.edge_index, dtnn.distance_factor(expansion))
    shared = dtnn(data)
    close(shared, c)
    apart = torch.autograd.grad((c * towards).sum(), [layer.from_factors.weight for layer in layers])
    together = torch.autograd.grad((shared * towards).sum(), dtnn.interaction.from_factors.weight)[0]
    close(together, sum(apart), 1e-9)
    assert min(each.abs().max() for each in apart) > 1e-3


def test_atoms_do_not_see_each_other_at_first():
    fresh, data = pygschnet.preset("dtnn").double(), graph(ethanol(), make_model("dtnn"))
    assert torch.equal(fresh.representation(data), fresh.representation.embedding(data.z))
    started = DTNN(zero_interactions=False).double()
    assert not torch.allclose(started(data), started.embedding(data.z), atol=1e-2)
    assert fresh.representation.embedding.weight.std().item() == pytest.approx(30**-0.25, rel=0.05)


def test_presets_differ_as_published():
    paper, code = pygschnet.preset("dtnn"), pygschnet.preset("dtnn_code")
    assert paper.representation.basis.centres.diff().numpy() == pytest.approx(0.2, rel=1e-4)
    assert paper.representation.basis.centres[[0, -1]].tolist() == [-1, 20]
    assert code.representation.basis.centres[[0, -1]].tolist() == [0, 20] and code.representation.gaussians == 100
    for model in (paper, code):
        assert model.representation.gamma == pytest.approx(1 / (2 * 0.2**2)) and model.representation.cutoff is None
        assert model.head.activation == "tanh" and model.head.hidden == 15 and model.head.network() is None
        assert model.head.dense_2.weight.abs().max() == 0


def test_the_hidden_layer_is_a_hyperbolic_tangent():
    head = randomise(Atomwise(30, activation="tanh")).double()
    x = torch.randn(4, 30, dtype=torch.float64)
    expected = F.linear(F.linear(x, head.dense_1.weight, head.dense_1.bias).tanh(), head.dense_2.weight)
    data = from_atoms(molecule("CH3Cl")[:4])
    close(head(x, data)[1], (expected + head.dense_2.bias).squeeze(1))


def test_crystals():
    """With a cutoff function: a supercell, whose atoms see images of themselves, has the energy of its cells."""
    model, cell = make_model("dtnn_short"), bulk("Si", cubic=True)
    cell.rattle(0.1, seed=0)
    energy = model(graph(cell, model)).energy
    close(model(graph(cell.repeat((2, 1, 1)), model)).energy, 2 * energy, 1e-9)
    with pytest.raises(InputError, match="infinitely many pairs"):
        graph(cell, make_model("dtnn"))


def test_probes():
    """Ω is what the model says of a last atom that nobody feels; far away it is that of an isolated atom only if there
    is a cutoff: without one, atoms at any distance send b₂."""
    for name, isolated in (("dtnn", False), ("dtnn_short", True)):
        model, atoms = make_model(name), ethanol()
        places = np.array([[0.0, 0.0, 1.5], [300.0, 0.0, 0.0]])
        omega = local_chemical_potential(model, atoms, places, ("O",))[0]
        data = graph(atoms, model)
        before = model(data).energy.clone()
        alone = model.head(model.representation.embedding(torch.tensor([8])), from_atoms(molecule("O")))[0].item()
        assert abs(omega[0] - alone) > 1e-3
        assert (abs(omega[1] - alone) < 1e-12) == isolated
        assert torch.equal(model(data).energy, before)
        _, w_cf, b_1, _, b_2, w_fc = weights(model.representation)
        if not isolated:  # by hand, from what the undisturbed molecule has before each pass
            dtnn, c, x = (
                model.representation,
                model.representation.embedding(data.z),
                weights(model.representation)[0][8],
            )
            for _ in range(3):
                x = x + np.tanh((c.detach().numpy() @ w_cf.T + b_1) * b_2 @ w_fc.T).sum(0)
                factors = dtnn.distance_factors(edge_distances(data))
                c = c + dtnn.interaction(c, data.edge_index, factors)
            far = model.head(torch.from_numpy(x).unsqueeze(0), from_atoms(molecule("O")))[0].item()
            assert omega[1] == pytest.approx(far, rel=1e-10)


def test_what_is_explained(pygschnet_command, tmp_path):
    """Embeddings and Ω are there; filters, walks and sensitivity are left out with reasons that name the model."""
    model = make_model("dtnn")
    model.head.elements[[1, 6, 8]] = True
    found = embedding_components(model)
    rows = model.representation.embedding.weight.detach().numpy()[[1, 6, 8]]
    np.testing.assert_allclose(found.components @ found.directions, rows - rows.mean(0), atol=1e-12)
    pygschnet.save(model, tmp_path / "dtnn.safetensors")
    pytest.importorskip("plotly")
    page = tmp_path / "report.html"
    printed = pygschnet_command(
        "explain", str(tmp_path / "dtnn.safetensors"), "H2O", "-o", str(page), "--spacing", "0.5"
    )
    left_out = [line for line in printed.splitlines() if line.startswith("NOTE")]
    assert "preset" in page.read_text() and "DTNN" in page.read_text()
    assert len(left_out) == 3, printed
    for part, reason in (("filters", "DTNN has no filters"), ("sensitivity", "DTNN"), ("walks", "DTNN")):
        assert any(f"left out {part}" in line and reason in line for line in left_out), printed
