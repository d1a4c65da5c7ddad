"""The commands of a model one after the other, as a person would use them, and that they fit together."""

import json

import ase.build
import ase.io
import numpy as np
import pytest
import torch
from torch_geometric.nn.models import SchNet as PyGSchNet

import pygschnet
from pygschnet.cli import main
from pygschnet.export.package import read
from tests.structures import graph


@pytest.mark.filterwarnings("ignore")
def test_from_somebody_elses_model_to_a_file_for_deployment(tmp_path, monkeypatch, pygschnet_command):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(PyGSchNet(32, 32, 2, 20, cutoff=5.0).state_dict(), "foreign.pt")
    pygschnet_command("convert", "foreign.pt", "model.safetensors", "--energy_unit", "eV", "--elements", "[H, C, O]")
    molecules = [ase.build.molecule(name) for name in ("CH3CH2OH", "CH4", "H2O", "C2H6", "CO2")]
    ase.io.write("molecules.xyz", molecules)

    said = pygschnet_command("doctor", "model.safetensors", "--json", "doctor.json")
    assert "H, C, O" in said and json.loads((tmp_path / "doctor.json").read_text())["broken"] is False

    pygschnet_command("predict", "model.safetensors", "molecules.xyz", "--out", "labelled.extxyz")
    said = pygschnet_command("evaluate", "model.safetensors", "labelled.extxyz", "--out", "errors")
    errors = json.loads((tmp_path / "errors" / "metrics.json").read_text())["errors"]
    assert errors["energy"]["mae"] < 1e-6 and errors["forces"]["mae"] < 1e-6 and "forces MAE" in said
    assert errors["forces"]["count"] == 3 * sum(map(len, molecules))

    pygschnet_command("export", "model.safetensors", "model.ep")
    model = pygschnet.load("model.safetensors")
    data = graph(molecules[0], model)
    energy, _, forces, _ = read(tmp_path / "model.ep")(
        data.z, data.pos, data.edge_index, data.pos.new_zeros(data.edge_index.shape[1], 3)
    )
    predicted = ase.io.read("labelled.extxyz", 0)
    assert energy.item() == pytest.approx(predicted.get_potential_energy(), abs=1e-5)
    np.testing.assert_allclose(forces.numpy(), predicted.get_forces(), atol=1e-5)


@pytest.mark.parametrize("command", ["predict", "relax", "md", "evaluate", "explain", "export", "convert", "doctor"])
def test_help(command, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["pygschnet", command, "--help"])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().out
    assert end.value.code == 0 and f"usage: pygschnet {command}" in said
    assert ("--config" in said) == (command in ("evaluate", "explain", "doctor"))


def test_predict_with_a_configuration_is_lightnings(pygschnet_command):
    assert "config" in pygschnet_command("predict", "-c", "nothing.yaml", code=2)
