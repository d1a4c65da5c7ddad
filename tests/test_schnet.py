"""SchNet against other people's: PyG's and SchNetPack's, with the same weights, and the counts of science."""

import json
import math
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch_geometric.data import Batch, Data
from torch_geometric.nn.models import SchNet as PyGSchNet

import pygschnet
from pygschnet import RadiusGraph, from_atoms
from pygschnet.graph import edge_distances
from tests.patterns import fill, pyg_names
from tests.structures import SCHNETS, ethanol, graph, make_model, randomise

COUNTS = {"paper": 116_033, "tf2017": 185_153, "schnetpack": 455_809, "pyg": 455_809}


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


def relative(got, expected):
    return ((got - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    assert sum(parameter.numel() for parameter in pygschnet.preset(name).parameters()) == COUNTS[name]


def test_presets_differ_as_published():
    settings = {name: pygschnet.preset(name).representation for name in COUNTS}
    assert (
        settings["paper"].basis.centres[-1] == 30
        and settings["paper"].gamma == 10
        and len(settings["paper"].blocks) == 3
    )
    assert [settings[name].filter_final_activation for name in COUNTS] == [True, True, False, False]
    assert [settings[name].cutoff for name in COUNTS] == [None, 20.0, 5.0, 10.0]
    assert pygschnet.preset("paper").head.dense_2.weight.abs().max() == 0


def test_unknown_preset():
    with pytest.raises(pygschnet.InputError, match="no preset 'spk': choose one of default, paper, tf2017"):
        pygschnet.preset("spk")


def test_equal_to_pyg(dtype):
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-10}[dtype]
    structures = [molecule(name) for name in ("CH3CH2OH", "C6H6", "CH4", "HCN", "C3H9N", "isobutane")]
    data = Batch.from_data_list([from_atoms(atoms) for atoms in structures])
    data.pos = data.pos.to(dtype)
    data = RadiusGraph(10.0)(data)

    def given_edges(pos, batch):  # PyG 2.8 finds its own with pyg-lib only
        return data.edge_index, edge_distances(Data(z=data.z, pos=pos, edge_index=data.edge_index))

    theirs = PyGSchNet(mean=-3.0, std=2.0, interaction_graph=given_edges)
    ours = pygschnet.preset("pyg")
    fill(theirs, pyg_names(6))
    fill(ours)
    ours.head.mu.fill_(-3.0)
    ours.head.sigma.fill_(2.0)
    pos = data.pos.clone().requires_grad_()
    energy = theirs(data.z, pos, data.batch).flatten()
    forces = -torch.autograd.grad(energy.sum(), pos)[0]
    for filters_from, looser in (("edges", 1), ("pairs", 1), ("auto", 10)):  # float32's table: tests/test_table.py
        ours.representation.filters_from = filters_from
        prediction = ours(data)
        assert ((prediction.energy - energy).abs() / energy.abs()).max() < tolerance
        assert relative(prediction.forces, forces) < looser * tolerance


def test_equal_to_schnetpack(dtype):
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-10}[dtype]
    model = pygschnet.preset("schnetpack")
    fill(model)
    for record in json.loads((Path(__file__).parent / "fixtures/schnetpack.json").read_text())["structures"]:
        data = Data(z=torch.tensor(record["numbers"]), pos=torch.tensor(record["positions"], dtype=dtype))
        theirs = record[str(dtype).removeprefix("torch.")]
        for filters_from, looser in (("pairs", 1), ("auto", 10)):
            model.representation.filters_from = filters_from
            prediction = model(RadiusGraph(5.0)(data))
            assert prediction.energy.item() == pytest.approx(theirs["energy"], rel=tolerance)
            assert relative(prediction.forces, torch.tensor(theirs["forces"])) < looser * tolerance


@pytest.mark.parametrize("name", SCHNETS)
def test_an_atom_without_neighbours_still_passes_through_the_blocks(name):
    model = make_model(name)
    x = model.representation.embedding(torch.tensor([6]))
    for block in model.representation.blocks:
        x = x + block.dense(torch.logaddexp(block.f2out.bias, torch.zeros(())) - math.log(2))
    expected = model.head(x, Data(z=torch.tensor([6])))[0]
    torch.testing.assert_close(model(graph(Atoms("C"), model)).energy, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in SCHNETS if name != "table"])  # these edges take no table
def test_one_way_edges_give_the_same(name):
    """Edges without the mark of `RadiusGraph` may lack their reverse and are evaluated one by one."""
    model = make_model(name)
    data = graph(ethanol(), model)
    unmarked = Data(z=data.z, pos=data.pos, edge_index=data.edge_index)
    torch.testing.assert_close(model(unmarked).forces, model(data).forces, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model(unmarked).energy, model(data).energy)
    one_way = Data(z=data.z, pos=data.pos, edge_index=data.edge_index[:, data.edge_index[0] < data.edge_index[1]])
    assert not torch.allclose(model(one_way).energy, model(data).energy, rtol=1e-9)


def test_permuted_edges_give_the_same():
    model = make_model("paper")
    data = graph(ethanol(), model)
    order = torch.randperm(data.edge_index.shape[1], generator=torch.Generator().manual_seed(0))
    shuffled = Data(z=data.z, pos=data.pos, edge_index=data.edge_index[:, order], edge_cutoff=data.edge_cutoff)
    torch.testing.assert_close(model(shuffled).energy, model(data).energy)


def test_over_forty_neighbours_all_count():
    """Where PyG would keep 32 of 63 neighbours, the energy must not depend on the order of the atoms."""
    model = randomise(pygschnet.preset("pyg")).double()
    pos = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), -1).reshape(-1, 3).double()
    z, order = torch.ones(64, dtype=torch.long), torch.randperm(64, generator=torch.Generator().manual_seed(0))
    energy = [model(RadiusGraph(10.0)(Data(z=z, pos=p)), forces=False).energy for p in (pos, pos[order])]
    torch.testing.assert_close(*energy, rtol=1e-12, atol=1e-12)
