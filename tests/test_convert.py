"""Weights of other people's SchNets: the numbers that their own programs give, or a refusal that says why."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.units import Bohr
from torch_geometric.data import Data
from torch_geometric.nn.models import SchNet as PyGSchNet

import pygschnet
from pygschnet import InputError, RadiusGraph, from_atoms
from pygschnet.convert import convert, from_foreign
from pygschnet.convert.foreign import Foreign, read
from pygschnet.graph import edge_distances
from pygschnet.units import energy_factor
from tests.patterns import fill
from tests.structures import ethanol

FIXTURES = Path(__file__).parent / "fixtures" / "foreign"
KCAL = energy_factor("kcal/mol")
REFERENCES = {1: -313.5150902, 6: -23622.5871801, 8: -47069.3076897, 14: -181000.5}
TF2017 = "tf2017/validation/best_model-5000"
CASES = {  # file: record, relative precision in which the other program added the references
    "schnetpack2.model": ("schnetpack2", 1e-15),
    "schnetpack2.state_dict": ("schnetpack2", 1e-15),
    "schnetpack2.ckpt": ("schnetpack2", 1e-15),
    "schnetpack2_float64.model": ("schnetpack2_float64", 1e-15),
    "schnetpack1.model": ("schnetpack1", 1e-7),
    "schnetpack1_float64.model": ("schnetpack1_float64", 1e-15),
    TF2017: ("tf2017", 1e-7),
}


def predict(model, atoms, forces=True):
    data = from_atoms(atoms)
    dtype = next(model.parameters()).dtype
    data.pos = data.pos.to(dtype)
    if "cell" in data:
        data.cell = data.cell.to(dtype)
    return model(RadiusGraph(model.cutoff)(data), forces=forces)


def foreign(name, **given):
    return from_foreign(FIXTURES / name, energy_unit="kcal/mol", given=given)


def relative(got, expected):
    return ((got - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("structure", [0, 1, 2], ids=["ethanol", "butane", "cell"])
def test_equal_to_the_other_program(name, structure):
    recorded, precision = CASES[name]
    record = json.loads((FIXTURES / f"{recorded}.json").read_text())["structures"][structure]
    model = foreign(name).model
    model.representation.filters_from = "edges"  # a table has an error of its own: tests/test_table.py
    double = next(model.parameters()).dtype == torch.float64
    assert double == name.endswith("_float64.model")
    tolerance = 1e-10 if double else 1e-6
    cell = record["cell"]
    prediction = predict(model, Atoms(record["numbers"], record["positions"], cell=cell, pbc=cell is not None))
    # references are so large that beside them nothing else would be tested
    offset = sum(REFERENCES[number] for number in record["numbers"])
    offset /= len(record["numbers"]) if model.head.aggregation == "mean" else 1
    energy = prediction.energy.item() / KCAL
    assert energy - offset == pytest.approx(
        record["energy"] - offset, rel=tolerance, abs=max(precision * abs(offset), 1e-9)
    )
    assert energy == pytest.approx(record["energy"], rel=tolerance)
    assert relative(prediction.forces / KCAL, torch.tensor(record["forces"], dtype=torch.float64)) < tolerance


def pyg(**settings):
    model = PyGSchNet(12, 10, 2, 15, cutoff=6.0, **settings)
    fill(model, {name: name.replace("conv.nn", "mlp") for name, _ in model.named_parameters()})
    return model


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@pytest.mark.parametrize("whole", [True, False], ids=["model", "state_dict"])
@pytest.mark.parametrize("readout", ["add", "mean"])
@pytest.mark.parametrize("references", [True, False], ids=["atomref", "no atomref"])
def test_equal_to_pyg(dtype, whole, readout, references, tmp_path):
    atomref = torch.zeros(100, 1)
    atomref[[1, 6, 8]] = torch.tensor([[-13.5], [-1030.0], [-2043.0]])
    settings = {"atomref": atomref} if references else {}
    theirs = pyg(readout=readout, mean=-4.0, std=2.5, **settings)
    if references:
        with torch.no_grad():
            theirs.atomref.weight.copy_(atomref)
    path = tmp_path / "model.pt"
    torch.save(theirs if whole else theirs.state_dict(), path)
    given = {} if whole else {"mean": -4.0, "std": 2.5, "aggregation": {"add": "sum", "mean": "mean"}[readout]}
    converted = from_foreign(path, energy_unit="eV", given=given)
    assert (converted.kind, converted.assumed) == ("pyg", {})
    converted.model.representation.filters_from = "edges"

    data = RadiusGraph(6.0)(from_atoms(ethanol()))
    edges = Data(z=data.z, pos=data.pos.to(dtype), edge_index=data.edge_index)
    pos = edges.pos.requires_grad_()
    theirs.interaction_graph.forward = lambda pos, batch: (data.edge_index, edge_distances(edges))  # needs pyg-lib
    energy = theirs(data.z, pos, torch.zeros_like(data.z)).sum()
    prediction = predict(converted.model, ethanol())
    tolerance = 1e-6 if dtype == torch.float32 else 1e-10
    assert prediction.energy.item() == pytest.approx(energy.item(), rel=tolerance)
    assert relative(prediction.forces, -torch.autograd.grad(energy, pos)[0]) < tolerance


def test_what_a_state_dict_does_not_say(tmp_path):
    torch.save(pyg().state_dict(), tmp_path / "pyg.pt")
    assert from_foreign(tmp_path / "pyg.pt", energy_unit="eV").assumed == {"aggregation": "sum", "mean": 0, "std": 1}
    assert foreign("schnetpack2.state_dict").assumed == {"activation": "silu", "aggregation": "sum"}
    assert foreign("schnetpack2.state_dict", activation="ssp").model.head.activation == "ssp"
    assert foreign("schnetpack2.model").assumed == foreign("schnetpack2.ckpt").assumed == {}


def test_a_state_dict_of_schnetpack_1(tmp_path):
    torch.save(read(FIXTURES / "schnetpack1.model").tensors(), tmp_path / "state")
    converted = from_foreign(tmp_path / "state", energy_unit="kcal/mol")
    assert converted.assumed == {"cutoff_form": "cosine", "activation": "ssp", "aggregation": "sum"}
    expected = predict(foreign("schnetpack1.model").model, ethanol())
    assert torch.equal(predict(converted.model, ethanol()).forces, expected.forces)


@pytest.mark.parametrize("cutoff_form", ["hard", None])
def test_a_state_dict_without_cutoff(cutoff_form, tmp_path):
    """As of SchNetPack 0.3, whose hard cutoff is no buffer."""
    tensors = read(FIXTURES / "schnetpack1_float64.model").tensors()
    torch.save({name: x for name, x in tensors.items() if "cutoff" not in name}, tmp_path / "state")
    with pytest.raises(InputError, match="how far interactions reach: give the cutoff"):
        from_foreign(tmp_path / "state", energy_unit="eV")
    given = {"cutoff": 4.0, "cutoff_form": cutoff_form, "aggregation": "mean"}
    converted = from_foreign(tmp_path / "state", energy_unit="kcal/mol", given=given)
    expected = foreign("schnetpack1_float64.model").model
    assert torch.equal(predict(converted.model, ethanol()).energy, predict(expected, ethanol()).energy)


def test_units(tmp_path):
    kcal, bohr = foreign("schnetpack2.model").model, None
    bohr = from_foreign(FIXTURES / "schnetpack2.model", energy_unit="kcal/mol", length_unit="Bohr").model
    assert bohr.cutoff == pytest.approx(4.0 * Bohr)
    small = ethanol()
    small.positions *= Bohr
    assert predict(bohr, small).energy.item() == pytest.approx(predict(kcal, ethanol()).energy.item(), rel=1e-9)
    assert relative(predict(bohr, small).forces * Bohr, predict(kcal, ethanol()).forces) < 1e-4
    hartree = from_foreign(FIXTURES / "schnetpack2.model", energy_unit="Ha").model
    ratio = predict(hartree, ethanol()).energy / predict(kcal, ethanol()).energy
    assert ratio.item() == pytest.approx(energy_factor("Ha") / KCAL, rel=1e-12)


def test_elements():
    """Those with reference energies, unless others are given: it would be wrong by tons for the others."""
    with pytest.raises(InputError, match="not been trained on N, only on H, C, O, Si"):
        predict(foreign("schnetpack2.model").model, Atoms("N2", [[0, 0, 0], [0, 0, 1.1]]))
    model = from_foreign(FIXTURES / "schnetpack2.model", energy_unit="eV", elements=["H", "C", "O"]).model
    with pytest.raises(InputError, match="not been trained on Si, only on H, C, O"):
        predict(model, Atoms("Si"))
    with pytest.raises(InputError, match="'Xx' is no element"):
        from_foreign(FIXTURES / "schnetpack2.model", energy_unit="eV", elements=["Xx"])


def test_the_command(tmp_path, capsys):
    output = tmp_path / "model.safetensors"
    convert(str(FIXTURES / "schnetpack2.state_dict"), str(output), energy_unit="kcal/mol")
    printed = capsys.readouterr().out
    assert "features 8, interactions 2, gaussians 10, cutoff 4.0" in printed
    assert "does not say activation, taken: silu; if that is wrong give --activation" in printed
    loaded, direct = pygschnet.load(output), foreign("schnetpack2.model").model
    assert torch.equal(predict(loaded, ethanol()).forces, predict(direct, ethanol()).forces)


def test_checkpoint_by_any_of_its_names():
    for end in (".index", ".data-00000-of-00001", ".meta"):
        assert foreign(TF2017 + end).kind == "tf2017"


def test_checkpoint_without_arguments(tmp_path):
    shutil.copytree(FIXTURES / "tf2017" / "validation", tmp_path / "validation")
    prefix = str(tmp_path / "validation" / "best_model-5000")
    with pytest.raises(InputError, match=r"give the cutoff, which is above 3.9 and at most 4.0"):
        from_foreign(prefix, energy_unit="kcal/mol")
    converted = from_foreign(prefix, energy_unit="kcal/mol", given={"cutoff": 4.0})
    assert converted.assumed == {"aggregation": "sum"}
    assert torch.equal(predict(converted.model, ethanol()).energy, predict(foreign(TF2017).model, ethanol()).energy)
    with pytest.raises(InputError, match="a cutoff of 5.0 means 50 Gaussians, the checkpoint has 40"):
        from_foreign(prefix, energy_unit="kcal/mol", given={"cutoff": 5.0})
    (tmp_path / "validation" / "best_model-5000.data-00000-of-00001").unlink()
    with pytest.raises(InputError, match="there is no file .*data-00000-of-00001, which belongs to the checkpoint"):
        from_foreign(prefix, energy_unit="kcal/mol", given={"cutoff": 4.0})


def at(tree, path):
    for name in path.split("."):
        tree = tree.get(name)
    return tree


def rename(path, name):
    def change(tree):
        at(tree, path).__class__ = type("Record", (Foreign,), {"name": name})

    return change


def put(path, name, value):
    return lambda tree: at(tree, path).state.update({name: value})


def grow(path, name):
    def change(tree):
        module = at(tree, path)
        module.state["_parameters"][name] = next(iter(at(tree, "representation.embedding").get("_parameters").values()))

    return change


def learn(path, name):
    """Gaussians with one that has moved: another record of numbers in their place."""

    def change(tree):
        buffers = at(tree, path).state["_buffers"]
        buffers[name].args[0].data[3] *= 1.01

    return change


OFFSETS, OUTPUT, BLOCK = "postprocessors.1", "output_modules.0", "representation.interactions.0"
SILU = type("Record", (Foreign,), {"name": "torch.nn.functional.silu"})
REFUSALS = [
    ("schnetpack2.model", rename("representation", "schnetpack.representation.painn.PaiNN"), "painn.PaiNN"),
    ("schnetpack2.model", rename(OUTPUT, "schnetpack.atomistic.atomwise.DipoleMoment"), "DipoleMoment"),
    ("schnetpack2.model", rename(OUTPUT, "mine.Atomwise"), "has a mine.Atomwise"),
    ("schnetpack2.model", rename("output_modules.1", "schnetpack.atomistic.atomwise.Atomwise"), "2 Atomwise"),
    ("schnetpack2.model", rename("representation.radial_basis", "schnetpack.nn.radial.BesselRBF"), "BesselRBF"),
    ("schnetpack2.model", rename("representation.cutoff_fn", "schnetpack.nn.cutoff.SwitchFunction"), "SwitchFunction"),
    ("schnetpack2.model", put(f"{BLOCK}.f2out.0", "activation", SILU), "f2out.0 has the activation silu"),
    ("schnetpack2.model", put(f"{OUTPUT}.outnet.1", "activation", SILU), "outnet.1 has the activation silu"),
    ("schnetpack2.model", put(OUTPUT, "aggregation_mode", None), "aggregated by None"),
    ("schnetpack2.model", put(OFFSETS, "is_extensive", False), "is_extensive"),
    ("schnetpack2.model", grow(f"{OUTPUT}.outnet.1", "gate"), "head.dense_2.gate"),
    ("schnetpack2.model", grow(BLOCK, "gate"), "representation.interactions.0.gate"),
    ("schnetpack2.model", learn("representation.radial_basis", "offsets"), "not equally spaced"),
    ("schnetpack2.model", learn("representation.radial_basis", "widths"), "different widths"),
    ("schnetpack1.model", put("representation", "charged_systems", True), "total charge"),
    ("schnetpack1.model", put(f"{BLOCK}.cfconv.agg", "average", True), "normalize_filter"),
    ("schnetpack1.model", put("representation.distance_expansion", "centered", True), "centred at zero"),
    ("schnetpack1.model", rename(f"{OUTPUT}.atom_pool", "schnetpack.nn.base.MaxAggregate"), "MaxAggregate"),
    ("schnetpack1.model", rename(OUTPUT, "schnetpack.atomistic.output_modules.ElementalAtomwise"), "ElementalAtomwise"),
]


@pytest.mark.parametrize(("name", "change", "message"), REFUSALS, ids=[message for *_, message in REFUSALS])
def test_what_cannot_be_represented(name, change, message, monkeypatch):
    tree = read(FIXTURES / name)
    change(tree)
    monkeypatch.setattr("pygschnet.convert.read", lambda path: tree)
    with pytest.raises(InputError, match=message):
        foreign(name)


def test_offsets_that_are_not_applied(monkeypatch):
    """SchNetPack's switches: another property's offsets, an addition that is off, no postprocessing at all."""
    expected = predict(foreign("schnetpack2.model").model, ethanol())
    for path, key, value, shift in [
        (OFFSETS, "_property", "dipole", True),
        (OFFSETS, "add_atomrefs", False, False),
        (OFFSETS, "add_mean", False, None),
    ]:
        tree = read(FIXTURES / "schnetpack2.model")
        at(tree, path).state[key] = value
        monkeypatch.setattr("pygschnet.convert.read", lambda _, tree=tree: tree)
        model = foreign("schnetpack2.model").model
        assert (model.head.mu != 0) == (shift is False)
        assert model.head.reference_energies.any() == (shift is None)
        assert torch.equal(predict(model, ethanol()).forces, expected.forces)


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"dipole": True}, None, "dipole moments"),
        ({"readout": "max"}, None, "MaxAggregation"),
        ({"interaction_graph": torch.nn.Identity()}, None, "Identity"),
        ({}, lambda model: setattr(model.interactions[0].conv, "cutoff", 5.0), "cutoffs of their own"),
        ({}, lambda model: model.distance_expansion.offset[3].mul_(1.1), "not equally spaced"),
        ({}, lambda model: model.register_parameter("extra", model.lin1.bias), "cannot be converted: extra"),
        ({}, lambda model: model.lin1.weight.data[0].fill_(torch.nan), "not finite"),
    ],
)
def test_pyg_that_cannot_be_represented(settings, change, message, tmp_path):
    model = pyg(**settings)
    if change is not None:
        change(model)
    torch.save(model, tmp_path / "model.pt")
    with pytest.raises(InputError, match=message):
        from_foreign(tmp_path / "model.pt", energy_unit="eV")


def test_two_filter_networks_that_differ(tmp_path):
    """PyG saves each under two names."""
    state = pyg().state_dict()
    state["interactions.0.mlp.0.weight"] = state["interactions.0.mlp.0.weight"] + 1
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(InputError, match="two different tensors for representation.filter_networks.0.dense_1.weight"):
        from_foreign(tmp_path / "model.pt", energy_unit="eV")


def test_missing_parts(tmp_path):
    state = pyg().state_dict()
    for gone, message in [("lin1.bias", "head.dense_1.bias is missing"), ("lin1.weight", "missing")]:
        torch.save({name: x for name, x in state.items() if name != gone}, tmp_path / "model.pt")
        with pytest.raises(InputError, match=message):
            from_foreign(tmp_path / "model.pt", energy_unit="eV")
    torch.save({"weight": torch.ones(3)}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="no state_dict of a SchNet"):
        from_foreign(tmp_path / "model.pt", energy_unit="eV")


def test_what_the_user_must_say():
    with pytest.raises(InputError, match="do not say their unit of energy: give --energy_unit"):
        from_foreign(FIXTURES / "schnetpack2.model")
    with pytest.raises(InputError, match="no unit of energy"):
        from_foreign(FIXTURES / "schnetpack2.model", energy_unit="Debye")
    with pytest.raises(InputError, match="the file says that cutoff is 4.0, not 5.0"):
        foreign("schnetpack2.model", cutoff=5.0)
    for name, given in [("schnetpack2.model", "mean"), (TF2017, "activation"), ("schnetpack1.model", "cuttoff")]:
        with pytest.raises(InputError, match=f"this file does not leave {given} open: leave it out"):
            foreign(name, **{given: 1.0})
    with pytest.raises(InputError, match="there is no file"):
        foreign("nothing.model")
