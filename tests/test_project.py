"""Files that must agree with each other."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

import pygschnet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {
    "torch": "pytorch",
    "torch-geometric": "pytorch_geometric",
    "torch-cluster": "pytorch_cluster",
    "torch-scatter": "pytorch_scatter",
}


def bounds(requirement: str) -> tuple[str, frozenset[str]]:
    name, specifiers = re.match(r"([\w-]+)(?:\[[\w,]+\])?(.*)", requirement.replace(" ", "")).groups()
    return name, frozenset(filter(None, specifiers.split(",")))


def test_environment_agrees_with_pyproject():
    wanted = (
        PROJECT["dependencies"] + PROJECT["optional-dependencies"]["cluster"] + PROJECT["optional-dependencies"]["test"]
    )
    wanted = {CONDA_NAMES.get(name, name): specifiers for name, specifiers in map(bounds, wanted)}
    wanted["python"] = bounds("python" + PROJECT["requires-python"])[1]
    wanted["c-compiler"] = bounds("c-compiler>=1.5")[1]  # elsewhere the system's
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    found = dict(bounds(entry) for entry in entries if isinstance(entry, str) and entry != "pip")
    found |= dict(bounds(entry) for entry in pip if entry != "-e .")
    assert found == wanted


def test_the_version_stands_in_one_place():
    assert pygschnet.__version__ == PROJECT["version"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_compromised_releases_are_excluded():
    lightning = next(entry for entry in PROJECT["dependencies"] if entry.startswith("pytorch-lightning"))
    assert {"!=2.6.2", "!=2.6.3"} <= bounds(lightning)[1]


def test_import_works_without_compiled_extensions():
    """torch-cluster and torch-scatter are accelerators, not requirements."""
    script = (
        "import sys, warnings; warnings.simplefilter('ignore');"
        "sys.modules['torch_cluster'] = sys.modules['torch_scatter'] = None;"
        "import pygschnet, ase.build;"
        "model = pygschnet.preset('pyg').eval();"
        "data = pygschnet.RadiusGraph(10.0)(pygschnet.from_atoms(ase.build.molecule('CH4')));"
        "print(model(data).forces.shape)"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "torch.Size([5, 3])"


def test_no_pickle_is_loaded():
    """Lightning checkpoints are read with weights_only; nothing else unpickles."""
    for path in (ROOT / "pygschnet").rglob("*.py"):
        text = path.read_text()
        assert "pickle.load" not in text and "allow_pickle=True" not in text, path
        assert len(re.findall(r"torch\.load\(", text)) == len(re.findall(r"torch\.load\(.*weights_only=True", text)), (
            path
        )
