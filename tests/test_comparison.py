"""The comparison of systems is of the systems alone."""

from pathlib import Path

import pytest
import yaml

from pygschnet.cli import CLI  # noqa: F401, which imports all that the files name
from pygschnet.saving import build

FOLDER = Path(__file__).parents[1] / "experiments" / "comparison"
FILES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str) -> dict:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def test_there_are_the_systems_of_the_papers():
    assert {"schnet", "dtnn", "wacsf", "enn_s2s", "gdml", "sgdml", "mean"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_files_differ_in_the_model_alone(name):
    settings, schnet = read(name), read("schnet")
    model, of_schnet = settings.pop("model"), schnet.pop("model")
    assert settings == schnet
    assert model.keys() <= of_schnet.keys() and (name == "schnet" or model != of_schnet)
    assert model["rho"] == of_schnet["rho"]  # the same loss


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_left_to_defaults_that_may_change(name):
    for part in ("representation", "head"):
        described = read(name)["model"][part]
        module = build(described)
        assert module.features > 0
