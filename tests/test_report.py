"""The report in a real browser: it opens without a network, complains of nothing, shows everything, can be turned."""

import json
import os
import shutil
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
from matplotlib import colormaps

import pygschnet
from pygschnet.interpret.plots import SCALE
from tests.structures import steep_model

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")
ARTEFACTS = Path(__file__).parents[1] / "build" / "report"
NAMES = ("ethanol", "benzene")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of a report on two molecules with two models of different seeds, and what was printed."""
    folder = tmp_path_factory.mktemp("report")
    for seed in (1, 2):
        model = steep_model().float()
        model.head.elements[[1, 6, 8]] = True
        if seed == 2:
            for parameter in model.parameters():
                parameter.data *= 1.05
        pygschnet.save(model, folder / f"model{seed}.safetensors")
    ase.io.write(folder / "ethanol.xyz", ase.build.molecule("CH3CH2OH"))
    ase.io.write(folder / "benzene.xyz", ase.build.molecule("C6H6"))
    molecules = [str(folder / f"{name}.xyz") for name in NAMES]
    explain(str(folder / "model*.safetensors"), molecules, str(folder / "report.html"), files=str(folder / "files"))
    return folder


def explain(*arguments, **settings):
    from pygschnet.interpret.command import explain

    explain(*arguments, spacing=0.4, **settings)


@pytest.fixture(scope="module")
def browser():
    if not BROWSER:
        pytest.skip("no Chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    software = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # no GPU needed
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", *quiet, *software])
        yield browser
        browser.close()


class Page:
    """A page that was opened, and everything it said and asked for."""

    def __init__(self, browser, file, **viewport):
        self.said, self.asked = [], []
        self.page = browser.new_page(viewport=viewport)
        self.page.set_default_timeout(120_000)
        self.page.on("console", lambda message: self.said.append((message.type, message.text)))
        self.page.on("pageerror", lambda error: self.said.append(("error", str(error))))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def scene(self, number):
        """Scrolls to a molecule and waits until it is drawn."""
        self.page.locator(f"#scene-{number}").scroll_into_view_if_needed()
        self.page.wait_for_function(f"document.querySelector('#scene-{number}').dataset.view")
        return self.page.locator(f"#scene-{number}")

    def eye(self, number):
        scene = f"document.querySelector('#scene-{number}')._fullLayout.scene._scene.getCamera().eye"
        return np.array(list(self.page.evaluate(f"Object.values({scene})")))


@pytest.fixture(scope="module")
def wide(browser, report):
    page = Page(browser, report / "report.html", width=1200, height=900)
    yield page
    page.page.close()


def pixels(png):
    from io import BytesIO

    from matplotlib.image import imread

    return imread(BytesIO(png))


def test_it_opens_without_network_or_complaint(wide):
    for number in range(len(NAMES)):
        wide.scene(number)
    assert [said for said in wide.said if said[0] == "error"] == []
    assert [url for url in wide.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert len([url for url in wide.asked if url.startswith("file:")]) == 1


def test_every_figure_is_there(wide, report):
    figures = wide.page.locator("figure").evaluate_all("all => all.map(figure => figure.id)")
    for number, name in enumerate(NAMES):
        assert f"figure-{number}-scene" in figures
        for what in ("contributions", "planes", "walks"):
            assert f"figure-{number}_{name}_{what}" in figures
    assert {"figure-embedding", "figure-filter_curves", "figure-filters_block_1", "figure-filters_block_2"} <= set(
        figures
    )
    images = wide.page.locator("figure img")
    for image in images.all():
        image.scroll_into_view_if_needed()
    sizes = images.evaluate_all("all => all.map(image => image.naturalWidth * image.complete)")
    assert len(sizes) >= 10 and min(sizes) > 200


def test_the_mouse_turns_the_molecule(wide):
    scene = wide.scene(0)
    before, eye = pixels(scene.screenshot()), wide.eye(0)
    box = scene.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    wide.page.mouse.move(x, y)
    wide.page.mouse.down()
    wide.page.mouse.move(x + 120, y + 60, steps=6)
    wide.page.mouse.up()
    wide.page.wait_for_timeout(500)
    assert np.linalg.norm(wide.eye(0) - eye) > 0.3
    assert (np.abs(pixels(scene.screenshot()) - before) > 0.1).mean() > 0.005
    again = wide.eye(0)
    wide.page.locator("#views-0 button").nth(2).click()
    wide.page.wait_for_timeout(300)
    np.testing.assert_allclose(wide.eye(0), again, atol=1e-6)  # another view, from the same side


def test_every_view_shows_something_of_its_own(wide):
    seen = []
    buttons = wide.page.locator("#views-1 button")
    names = buttons.all_text_contents()
    assert names[0] == "energies of the atoms" and [name for name in names if name.startswith("Ω")] == [
        "Ω of H",
        "Ω of C",
        "Ω of O",
    ]
    scene = wide.scene(1)
    for name, button in zip(names, buttons.all(), strict=True):
        button.click()
        wide.page.wait_for_function(f"document.querySelector('#scene-1').dataset.view === {json.dumps(name)}")
        wide.page.wait_for_timeout(400)
        assert button.get_attribute("aria-pressed") == "true"
        seen.append(pixels(scene.screenshot())[..., :3])
    for first in range(len(seen)):
        assert seen[first].std() > 0.01
        for second in range(first):
            assert np.abs(seen[first] - seen[second]).max() > 0.1, f"{names[first]} looks like {names[second]}"
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    wide.page.screenshot(path=ARTEFACTS / "report.png", full_page=True)


def test_a_narrow_screen_is_enough(browser, report):
    narrow = Page(browser, report / "report.html", width=360, height=740)
    scene = narrow.scene(0)
    assert narrow.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert 300 < scene.bounding_box()["width"] <= 360 and scene.bounding_box()["height"] < 500
    narrow.page.screenshot(path=ARTEFACTS / "narrow.png")
    narrow.page.close()


def test_colours_are_told_apart_by_lightness_alone():
    shades = colormaps[SCALE](np.linspace(0, 1, 256))[:, :3]
    linear = np.where(shades <= 0.04045, shades / 12.92, ((shades + 0.055) / 1.055) ** 2.4)
    lightness = linear @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all() and lightness[-1] / lightness[0] > 10


def test_the_file_is_small_and_holds_the_numbers(report):
    page = (report / "report.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 8e6
    model = pygschnet.load(report / "model1.safetensors")
    for name in NAMES:
        atoms = ase.io.read(report / f"{name}.xyz")
        atoms.calc = pygschnet.Calculator(model)
        assert f"predicted energy {atoms.get_potential_energy():.4f} eV" in page


def test_files_for_other_programs(report):
    folder = report / "files"
    numbers = np.load(folder / "0_ethanol.npz")
    model = pygschnet.load(report / "model1.safetensors")
    atoms = ase.io.read(report / "ethanol.xyz")
    atoms.calc = pygschnet.Calculator(model)
    assert (numbers["network"] + numbers["references"]).sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    assert numbers["omega"].shape == (3, len(numbers["vertices"]))
    cube, around = ase.io.cube.read_cube_data(folder / "0_ethanol_H.cube")
    assert cube.ndim == 3 and np.isfinite(cube).all()
    np.testing.assert_allclose(around.positions, atoms.positions, atol=1e-4)
    for picture in ("embedding", "0_ethanol_planes", "filters_block_1"):
        assert (folder / f"{picture}.png").stat().st_size > 1000
        assert "<svg" in (folder / f"{picture}.svg").read_text(encoding="utf-8")[:1000]
    assert not [name for name in os.listdir(folder) if name.endswith(".part")]
