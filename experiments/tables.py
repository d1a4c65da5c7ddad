"""Tables of the documentation, from the results and the presets.

    python -m experiments.tables            # after a result or a preset has changed
    python -m experiments.tables --check    # names the files that are not up to date

What stands between `<!-- table NAME -->` and `<!-- end -->` is written by this program; a test compares.
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from statistics import mean

import yaml

from pygschnet.units import unit_factor

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
BLOCK = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
NONE = "–"
MEV = 1000 * unit_factor("kcal/mol")

SYSTEMS = {  # of experiments/comparison: name, and errors published for 1,000 training frames
    "mean": ("the mean, no forces", NONE),
    "schnet": ("SchNet, preset `paper`, N(0, 1) embeddings", "0.08 / 0.39"),
    "dtnn": ("DTNN", NONE),
    "wacsf": ("Behler–Parrinello network, 82 wACSF", NONE),
    "enn_s2s": ("enn-s2s, distances only, width 24, T = 4", NONE),
    "gdml": ("GDML", "0.15 / 0.79"),
    "sgdml": ("sGDML", "0.07 / 0.33"),
    "gdml_1000": ("GDML, all 1,000 frames of `train_01`", "0.15 / 0.79"),
    "sgdml_1000": ("sGDML, the same", "0.07 / 0.33"),
}
AIMS = {1: 4, 2: 4.5, 3: 7, 4: 7, 5: 11, 6: 15, 7: 35, 8: 4, 9: 4}
"""How many times faster each work of the benchmark was to be."""

PUBLISHED = {  # arXiv:1706.08566, Table 2, N = 1,000: energies and forces, energies only
    "ethanol": ("0.08 / 0.39", "0.93 / 6.56"),
    "benzene": ("0.08 / 0.31", "1.19 / 14.12"),
    "toluene": ("0.12 / 0.57", "2.95 / 22.31"),
    "naphthalene": ("0.16 / 0.58", "3.58 / 25.36"),
    "aspirin": ("0.37 / 1.35", "4.20 / 23.54"),
}
RECIPES = ("paper, energies only", "paper", "default")


def read(name: str) -> dict:
    """A file of results; without rows if it is not there yet."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {"rows": []}


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "".join(f"|{'|'.join(line)}|\n" if line[0] == "---" else f"| {' | '.join(line)} |\n" for line in lines)


def digits(number: float | None) -> str:
    """Three of them, where that makes sense."""
    if number is None:
        return NONE
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def comparison() -> str:
    rows = (
        [
            SYSTEMS[row["system"]][0],
            f"{row['test_energy_mae']:.3f}",
            f"{row['test_forces_mae']:.3f}",
            SYSTEMS[row["system"]][1],
            f"{row['parameters']:,}",
            f"{row['steps']:,}" if row["parameters"] else NONE,  # nothing is trained step by step
            f"{row['cpu_time_s'] / 60:.1f}",
        ]
        for row in read("comparison")["rows"]
    )
    return markdown(("system", "energy", "forces", "published, N = 1,000", "parameters", "steps", "minutes"), rows)


def speed() -> str:
    rows = (
        [
            row["work"],
            f"{digits(row['ours_ms'])} ({NONE.join(map(digits, row['ours_quartiles_ms']))})",
            *(digits(row["peers_ms"][peer]) for peer in ("schnetpack", "pyg")),
            f"**{row['ratio']:.1f}**",
            f"{AIMS[row['number']]}",
            " / ".join(map(digits, (row["ours_peak_mb"], *row["peers_peak_mb"].values()))),
        ]
        for row in read("bench-cpu")["rows"]
        if row["peers_ms"]
    )
    head = ("work", "ours", "SchNetPack", "PyG", "ratio", "aim", "memory: ours / SchNetPack / PyG")
    return markdown(head, rows)


def scaling() -> str:
    rows = (
        [
            f"{row['atoms']:,}",
            *(digits(row[f"{who}_{unit}_per_atom"]) for who in ("ours", "schnetpack") for unit in ("us", "kb")),
        ]
        for row in read("bench-cpu")["scaling"]
    )
    return markdown(
        ("atoms, energies and forces, network B", "ours, µs per atom", "kB per atom", "SchNetPack, µs", "kB"), rows
    )


def errors(runs: list[dict]) -> str:
    """Of energies and forces, in the mean if there are several runs."""
    if not runs:
        return NONE
    forces = [run["forces_mae"] for run in runs if run["forces_mae"] is not None]
    both = f"{mean(run['energy_mae'] for run in runs):.3f} / {f'{mean(forces):.3f}' if forces else NONE}"
    return f"{both} ({len(runs)} runs)" if len(runs) > 1 else both


def minutes(runs: list[dict]) -> str:
    return f"{mean(run['train_seconds'] for run in runs) / 60:.0f}" if runs else NONE


def md17() -> str:
    runs = read("md17")["rows"]
    rows = []
    for labels in ("md17", "rmd17"):
        for molecule, published in PUBLISHED.items():
            here = [run for run in runs if run["molecule"] == molecule and run["labels"] == labels]
            groups = [[run for run in here if run["recipe"] == recipe] for recipe in RECIPES]
            theirs = published if labels == "md17" else (NONE, NONE)
            rows.append([molecule, labels, *theirs, *map(errors, groups), " / ".join(map(minutes, groups))])
    ours = (f"ours, {recipe}" for recipe in RECIPES)
    text = markdown(("molecule", "labels", "published", "published, energies only", *ours, "minutes"), rows)
    if runs:
        head = ("run", "split", "seed", "energy", "forces", "steps", "minutes", "commit")
        text += "\n" + markdown(head, map(run_row, runs)) + "\n" + commands(runs)
    return text


def accuracy() -> str:
    """The table of MD17 in short: energies and forces."""
    columns = [("md17", recipe) for recipe in ("paper", "paper, 80,000 steps", "default")] + [("rmd17", "default")]
    runs, rows = read("md17")["rows"], []
    for molecule, (published, _) in PUBLISHED.items():
        here = [run for run in runs if run["molecule"] == molecule]
        groups = [[run for run in here if (run["labels"], run["recipe"]) == column] for column in columns]
        rows.append([molecule, published, *map(errors, groups), " / ".join(map(minutes, groups))])
    head = ("molecule", "the paper", "`paper` here", "80,000 steps", "`default`", "`default`, rMD17's labels")
    return markdown((*head, "minutes of one core"), rows)


def run_row(run: dict) -> list[str]:
    return [
        f"{run['molecule']}, {run['labels']}, {run['recipe']}",
        run["split"],
        str(run["seed"]),
        *errors([run]).split(" / "),
        f"{run['steps']:,}",
        minutes([run]),
        run["commit"],
    ]


def commands(runs: list[dict]) -> str:
    """Of all runs, in their order, each once."""
    return "".join(["```text\n", *(f"{line}\n" for line in dict.fromkeys(run["command"] for run in runs)), "```\n"])


def listed(name: str, columns: dict[str, Callable[[dict], str]]) -> str:
    """The runs of a file of results, a line each, and their commands."""
    runs = read(name)["rows"]
    if not runs:
        return "*Not run yet.*\n"
    columns = columns | {"minutes": lambda run: minutes([run]), "commit": lambda run: run["commit"]}
    table = markdown(columns, ([cell(run) for cell in columns.values()] for run in runs))
    return f"{table}\n{commands(runs)}"


ERRORS: dict[str, Callable[[dict], str]] = {
    "energy": lambda run: f"{run['energy_mae']:.3f}",
    "forces": lambda run: NONE if run["forces_mae"] is None else f"{run['forces_mae']:.3f}",
}


def qm9() -> str:
    columns = {
        "training molecules": lambda run: f"{run['molecules']:,}",
        "steps": lambda run: f"{run['steps']:,}",
        "seed": lambda run: str(run["seed"]),
        "test MAE, meV": lambda run: f"{run['energy_mae'] * MEV:.1f}",
        "kcal/mol": ERRORS["energy"],
    }
    return listed("qm9", columns)


def conformation() -> str:
    columns = {
        "data": lambda run: run["task"],
        "trained on": lambda run: run["trained on"],
        "tested on": lambda run: f"{run['tested on']} ({run['structures']:,})",
    }
    return listed("conformation", columns | ERRORS)


def surrogate() -> str:
    columns = {"frames": lambda run: f"{run['molecules']:,}", "trained on": lambda run: run["trained on"]}
    return listed("surrogate", columns | ERRORS | {"steps": lambda run: f"{run['steps']:,}"})


def time() -> str:
    from experiments.figures.curves import minutes as minutes_of
    from experiments.figures.curves import of_ethanol, reached

    rows = (
        [
            name,
            f"{1000 * curve['seconds_per_step']:.1f}",
            NONE if reached(curve) is None else f"{reached(curve):.1f}",
            f"{minutes_of(curve)[-1]:.1f}",
            f"{curve['energy_mae'][-1]:.3f} / {curve['forces_mae'][-1]:.3f}",
        ]
        for name, curve in of_ethanol().items()
    )
    return markdown(("training", "a step, ms", "minutes to 0.08 / 0.39", "minutes in all", "errors then"), rows)


def trials() -> str:
    from experiments.md17.trials import trials as listed_trials

    flags = {trial[:3]: trial[3] for trial in listed_trials()}
    rows = (
        [
            f"{row['trial']}, {row['molecule']}",
            f"{row['steps']:,}",
            *errors([row]).split(" / "),
            minutes([row]),
            f"`{changes(flags[row['trial'], row['molecule'], row['steps']])}`",
        ]
        for row in sorted(read("trials")["rows"], key=lambda row: (row["steps"], row["forces_mae"]))
    )
    return markdown(("trial", "steps", "energy", "forces", "minutes", "changed"), rows)


def changes(flags: list[str]) -> str:
    """What a trial changes of the recipe."""
    text = shlex.join(flags).replace("-c experiments/md17/", "-c ").replace("model.representation.init_args.", "")
    return text.replace("model.optimizer.init_args.", "") or NONE


@cache  # building the models takes a while, and two pages may show them
def presets() -> str:
    from pygschnet.saving import VARIANTS, preset, preset_file

    columns = []
    for name in VARIANTS:
        model = yaml.safe_load(preset_file(name).read_text())["model"]
        net, head = model["representation"]["init_args"], model["head"]["init_args"]
        cutoff = "none, all pairs" if net["cutoff"] is None else f"{net['cutoff']:g} Å, {net['cutoff_form']}"
        columns.append(
            {
                "": f"`{name}`",
                "features, filters": f"{net['features']}, {net['filters']}",
                "blocks": str(net["interactions"]),
                "Gaussians": f"{net['gaussians']}, {net['gaussian_start']:g}–{net['gaussian_stop']:g} Å",
                "their γ": _gamma(net),
                "ssp after the second filter layer": "yes" if net["filter_final_activation"] else "no",
                "cutoff": cutoff,
                "embeddings start at": f"N(0, {net['embedding_std']:.3g})",
                "output network": f"{head['features']} → {head['hidden']} → 1, {head['activation']}",
                "its last layer starts at": "zero" if head["zero_last_layer"] else "Glorot",
                "scale σ": f"{head['scale']:g} eV" if "scale" in head else "of the training energies",
                "parameters": f"{sum(weights.numel() for weights in preset(name).parameters()):,}",
            }
        )
    first, *rest = ([key, *(column[key] for column in columns)] for key in columns[0])
    return markdown(first, rest)


def _gamma(net: dict) -> str:
    if "relative_width" in net:
        return f"1/(2σ²), σ = {net['relative_width']:g} μ"
    return "1/(2Δ²)" if net["gamma"] is None else f"{net['gamma']:g} Å⁻²"


ALL = (comparison, speed, scaling, md17, accuracy, time, trials, qm9, conformation, surrogate, presets)
TABLES = {function.__name__: function for function in ALL}


def rewritten(text: str) -> str:
    """The text with all its tables made anew."""
    return BLOCK.sub(lambda block: block[1] + TABLES[block[2]]() + block[3], text)


def outdated() -> dict[Path, str]:
    """Files whose tables are not what the results say, and what they should be."""
    files = [ROOT / "README.md", ROOT / "experiments" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    made = {path: rewritten(path.read_text()) for path in files}
    return {path: text for path, text in made.items() if path.read_text() != text}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if something would change")
    check = parser.parse_args().check
    found = outdated()
    for path, text in found.items():
        print(path.relative_to(ROOT), "is not up to date" if check else "is written")
        if not check:
            path.write_text(text)
    sys.exit(1 if check and found else 0)


if __name__ == "__main__":
    main()
