"""The floors of the house: a module imports only from lower floors or its own folder."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pygschnet"
FLOORS = (
    {"errors"},
    {"files", "presets", "ranks"},
    {"elements"},
    {"units", "kernels"},
    {"graph", "nn", "frames"},
    {"neighbours", "bonds"},
    {"representations", "heads"},
    {"model", "datasets"},
    {"saving", "gdml"},
    {"export", "convert"},
    {"training", "calculator", "torchsim", "interpret"},
    {"predict", "simulation", "doctor", "evaluate", "data_cli"},
    {"model_cli"},
    {"cli"},
    {"__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module] if node.module != "pygschnet" else [f"pygschnet.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"relative import in {path}"
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("pygschnet.")}
    return rooms


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return  # the public names
    for other in imported_rooms(path) - {room}:
        assert FLOOR[other] < FLOOR[room], f"{room} imports {other}, which is not below it"


def test_every_room_has_a_floor():
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__pycache__"} <= FLOOR.keys()


def test_files_are_short():
    assert {path.name: n for path in PACKAGE.rglob("*.py") if (n := len(path.read_text().splitlines())) > 300} == {}
