"""The documentation agrees with the results, the presets, the code, and itself."""

import json
import re
from pathlib import Path
from pkgutil import resolve_name

import pytest
import yaml

from experiments import tables

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "experiments" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = {
    "molecule": "ethanol", "labels": "md17", "split": "01", "recipe": "paper", "seed": 1, "energy_mae": 0.08765,
    "forces_mae": 0.4, "steps": 40_000, "train_seconds": 1200.0, "command": "pygschnet fit", "commit": "1234567",
}  # fmt: skip


def test_tables_are_those_of_the_results():
    assert [str(path) for path in tables.outdated()] == []  # python -m experiments.tables writes them


def test_a_number_that_was_typed_is_found():
    page = ROOT / "docs" / "results.md"
    text = page.read_text()
    assert "| sGDML | 0.072 |" in text
    assert tables.rewritten(text.replace("| sGDML | 0.072 |", "| sGDML | 0.071 |")) == text


def check_schema(rows):
    for row in rows:
        assert row.keys() == RUN.keys()
        for name, value in row.items():
            number = isinstance(RUN[name], int | float)
            assert isinstance(value, int | float if number else str) or (name == "forces_mae" and value is None), name
        assert row["molecule"] in tables.PUBLISHED and row["labels"] in ("md17", "rmd17")


def test_the_runs_of_md17_say_what_the_table_needs():
    check_schema(tables.read("md17")["rows"])
    with pytest.raises(AssertionError):
        check_schema([RUN | {"forces_mae": "0.4"}])


def test_the_table_of_md17(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    none = tables.md17()
    assert (
        "| ethanol | md17 | 0.08 / 0.39 | 0.93 / 6.56 | – | – | – | – / – / – |" in none
        and len(none.splitlines()) == 12
    )
    energies = RUN | {"recipe": "paper, energies only", "forces_mae": None, "molecule": "aspirin"}
    rows = [RUN, RUN | {"seed": 2, "energy_mae": 0.1, "train_seconds": 2400.0}, energies]
    rows += [RUN | {"labels": "rmd17"}, RUN | {"labels": "rmd17", "recipe": "default", "energy_mae": 0.02}]
    check_schema(rows)
    (tmp_path / "md17.json").write_text(json.dumps({"rows": rows}))
    text = tables.md17()
    assert "| ethanol | md17 | 0.08 / 0.39 | 0.93 / 6.56 | – | 0.094 / 0.400 (2 runs) | – | – / 30 / – |" in text
    assert "| aspirin | md17 | 0.37 / 1.35 | 4.20 / 23.54 | 0.088 / – | – | – | 20 / – / – |" in text
    assert "| ethanol | rmd17 | – | – | – | 0.088 / 0.400 | 0.020 / 0.400 | – / 20 / 20 |" in text
    assert "| ethanol, md17, paper | 01 | 2 | 0.100 | 0.400 | 40,000 | 40 | 1234567 |" in text
    assert text.endswith("```text\npygschnet fit\n```\n")
    short = tables.accuracy()
    assert "| ethanol | 0.08 / 0.39 | 0.094 / 0.400 (2 runs) | – | – | 0.020 / 0.400 | 30 / – / – / 20 |" in short
    assert "| aspirin | 0.37 / 1.35 | – | – | – | – | – / – / – / – |" in short  # energies alone do not count


def test_the_tables_of_qm9_and_of_conformations(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    ran = {"train_seconds": 600, "commit": "1234567", "command": "pygschnet fit"}
    row = {"molecules": 1000, "steps": 30_000, "seed": 1, "energy_mae": 1.0, **ran}
    (tmp_path / "qm9.json").write_text(json.dumps({"rows": [row]}))
    assert "| 1,000 | 30,000 | 1 | 43.4 | 1.000 | 10 | 1234567 |" in tables.qm9()  # 1 kcal/mol is 43.4 meV
    row = {"task": "acac", "trained on": "energies", "tested on": "600 K", "structures": 1200, **ran}
    (tmp_path / "conformation.json").write_text(json.dumps({"rows": [row | {"energy_mae": 1.5, "forces_mae": 2.5}]}))
    assert "| acac | energies | 600 K (1,200) | 1.500 | 2.500 | 10 | 1234567 |" in tables.conformation()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
            assert "docs" not in page.parts or (page.parent / target).resolve().is_relative_to(ROOT / "docs"), target


def test_every_page_is_in_the_navigation():
    text = (ROOT / ".ci" / "mkdocs.yml").read_text()
    named = set(re.findall(r": ([\w/]+\.md)$", text, re.MULTILINE))
    assert named == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}


def test_equations_are_where_the_table_says():
    rows = re.findall(r"^\|.*\| (\[?`.*) \|$", (ROOT / "docs" / "theory.md").read_text(), re.MULTILINE)
    assert len(rows) > 20
    for row in rows:
        assert "](api/" in row, row
        for file, name in re.findall(r"`([\w/]+\.py)(?:: ([\w.]+))?`", row):
            text = (ROOT / "pygschnet" / file).read_text()
            assert all(re.search(rf"(def|class) {part}\b", text) for part in (name or "").split(".") if part), row
        for page, path in re.findall(r"\((api/\w+\.md)#([\w.]+)\)", row):
            assert resolve_name(path) is not None
            assert (ROOT / "docs" / page).exists()


def test_pages_of_the_api_are_those_of_the_packages():
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for path in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE):
            assert resolve_name(path) is not None
    settings = yaml.safe_load((ROOT / ".ci" / "mkdocs.yml").read_text().replace("!relative ", ""))
    assert settings["strict"] is True and settings["theme"]["font"] is False
