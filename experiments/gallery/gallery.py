"""The figures of the second SchNet paper and of DTNN, re-made with models trained on QM9 geometries.

    for seed in 1 2 3; do
      pygschnet fit -c experiments/qm9/electronic_energy.yaml --seed_everything $seed --run_dir runs/qm9-$seed
    done
    python -m experiments.gallery.gallery "runs/qm9-*/model.safetensors" -c experiments/qm9/electronic_energy.yaml

Writes pictures beside this file, and experiments/results/gallery.json.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import yaml
from ase.data import chemical_symbols
from ase.data.colors import jmol_colors
from matplotlib.figure import Figure
from scipy.spatial import cKDTree
from scipy.stats import mannwhitneyu

from pygschnet.datasets import Files
from pygschnet.graph import RadiusGraph
from pygschnet.interpret import model_plots, plots
from pygschnet.interpret.attribution import signal_quality
from pygschnet.interpret.bonds import bonds
from pygschnet.interpret.contributions import contributions
from pygschnet.interpret.embedding import embedding_components, rank_correlations
from pygschnet.interpret.filters import filter_cuts
from pygschnet.interpret.groups import environments
from pygschnet.interpret.patterns import estimate_patterns
from pygschnet.interpret.plots import KCAL
from pygschnet.interpret.probe import local_chemical_potential
from pygschnet.interpret.space import Surface, isosurface
from pygschnet.interpret.statistics import environment_statistics, ring_stability
from pygschnet.saving import describe, load, model_files

HERE = Path(__file__).parent
PICTURES = HERE.parents[1] / "docs" / "gallery"
SHOWN = ("benzene", "toluene", "salicylic_acid", "malonaldehyde", "ethanol")
PROBES = ("H", "C", "N", "O")
RINGS = 6


def potentials(models, molecules):
    """Surfaces, Ω on them for each model, and the nearest atom of each vertex."""
    found = {}
    for name, atoms in molecules.items():
        surface = isosurface(atoms.positions)
        omega = np.stack([local_chemical_potential(model, atoms, surface.vertices, PROBES) for model in models])
        found[name] = surface, omega, cKDTree(atoms.positions).query(surface.vertices)[1]
    return found


def aromatic_against_saturated(found, molecules, models):
    """Aromatic and saturated carbon in numbers, for each probe and seed, and how well they can be told apart.

    Each carbon atom counts once: with the highest Ω on the surface that is nearer to it than to other atoms, with the
    mean of Ω there, and with its own energy.
    """
    values = {"highest Ω": [], "mean Ω": [], "energy of the atom": []}
    aromatic = []
    for name, (_, omega, nearest) in found.items():
        words = environments(bonds(molecules[name]))
        energies = [contributions(model, molecules[name]).network for model in models]
        for atom, word in enumerate(words):
            near = omega[:, :, nearest == atom]
            if not ("aromatic ring" in word or "C sp3" in word) or word.startswith("H") or near.shape[2] == 0:
                continue
            aromatic.append("aromatic" in word)
            values["highest Ω"].append(near.max(2))
            values["mean Ω"].append(near.mean(2))
            values["energy of the atom"].append(np.array([[energy[atom]] for energy in energies]))
    kinds, rows = np.array(aromatic), []
    for quantity, each in values.items():
        each = KCAL * np.stack(each)
        for column in range(each.shape[2]):
            for seed in range(each.shape[1]):
                a, s = each[kinds, seed, column], each[~kinds, seed, column]
                row = {"quantity": quantity, "model": seed}
                row |= {"probe": PROBES[column]} if each.shape[2] > 1 else {}
                for kind, found_values in (("aromatic", a), ("saturated", s)):
                    row[kind] = [round(float(f(found_values)), 2) for f in (np.mean, np.min, np.max)]
                row["atoms"] = [len(a), len(s)]
                row["an aromatic one is higher than a saturated one"] = round(
                    float(mannwhitneyu(a, s).statistic / (len(a) * len(s))), 3
                )
                rows.append(row)
    return rows


def draw_all_surfaces(found, molecules, seed):
    surfaces, values = [], []
    for name in SHOWN:
        surface, omega, _ = found[name]
        axes = np.linalg.svd(molecules[name].positions)[2].T
        axes *= [1, 1, np.sign(np.linalg.det(axes))]
        surfaces.append(Surface(surface.vertices @ axes, surface.faces))
        values.append(omega[seed])
    ends = {}
    for row, probe in enumerate(PROBES):
        low, high = np.percentile(np.concatenate([value[row] for value in values]), [2, 98])
        ends[probe] = float(low), float(high)
    names = [name.replace("_", " ") for name in SHOWN]
    plots.write(plots.draw_surfaces(names, surfaces, values, PROBES, ends), PICTURES / "omega.webp")
    return {probe: [round(KCAL * end, 2) for end in both] for probe, both in ends.items()}


def draw_rings(stability, data, chosen):
    """The most and the least stable rings, seen from above."""
    figure = Figure(figsize=(2.0 * RINGS, 4.6), layout="constrained")
    panels = figure.subplots(2, RINGS)
    planar = np.flatnonzero(stability.planar)
    rows = []
    for line, which in zip(panels, (planar[:RINGS], planar[-RINGS:]), strict=True):
        for axes, ring in zip(line, which, strict=True):
            molecule = data.molecules[int(chosen[stability.molecule[ring]])]
            z, pos, members = molecule.z.numpy(), molecule.pos.numpy(), stability.atoms[ring]
            centred = pos - pos[members].mean(0)
            flat = centred @ np.linalg.svd(centred[members])[2].T
            for a, b in bonds(molecule).pairs:
                axes.plot(*flat[[a, b], :2].T, color="C1" if {a, b} <= set(members) else "0.5", linewidth=2, zorder=1)
            axes.scatter(
                *flat[:, :2].T, s=np.where(z == 1, 25, 70), c=[tuple(jmol_colors[n]) for n in z], edgecolors="0.3"
            )
            axes.set_aspect("equal")
            axes.set_axis_off()
            energies = KCAL * stability.energy[:, ring]
            formula = "".join(f"{chemical_symbols[n]}{(z == n).sum()}" for n in np.unique(z)[::-1])
            axes.set_title(f"{formula}\n{energies.mean():.1f} ± {energies.std(ddof=1):.1f}", fontsize=8)
            rows.append([formula, *[round(float(energy), 2) for energy in energies]])
    figure.suptitle("planar C₆ rings in molecules of the test set: lowest above, highest below; kcal/mol", fontsize=10)
    plots.write(figure, PICTURES / "rings.webp")
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models")
    parser.add_argument("-c", "--config", required=True)
    parser.add_argument("--filters", help="a model whose filters are drawn, such as one of ethanol")
    options = parser.parse_args()
    start = time.perf_counter()
    paths = model_files(options.models)
    models = [load(path) for path in paths]
    molecules = {atoms.info["name"]: atoms for atoms in ase.io.read(HERE / "molecules.extxyz", ":")}

    found = potentials(models, molecules)
    contrast = aromatic_against_saturated(found, molecules, models)
    ends = draw_all_surfaces(found, molecules, 0)

    order = rank_correlations(models)
    embeddings = []
    for number, model in enumerate(models, 1):
        embedding = embedding_components(model)
        plots.write(model_plots.draw_embedding(embedding), PICTURES / f"embedding_{number}.webp")
        embeddings.append(
            {
                "explained": embedding.explained.round(3).tolist(),
                "components": {
                    chemical_symbols[z]: row.round(3).tolist()
                    for z, row in zip(embedding.elements, embedding.components, strict=True)
                },
            }
        )
    for number, cuts in enumerate(filter_cuts(load(options.filters) if options.filters else models[0], 10.0).cuts, 1):
        plots.write(model_plots.draw_filters(cuts, 10.0, number), PICTURES / f"filters_{number}.webp")

    settings = yaml.safe_load(Path(options.config).read_text())["data"]["init_args"]
    data = Files(**settings)
    data.graph = RadiusGraph(models[0].cutoff)
    data.setup("fit")
    chosen = np.random.default_rng(0).permutation(data.split["test"].numpy())[:10_000]
    batches = [data.molecules.batch(part) for part in np.array_split(chosen, 100)]
    statistics = environment_statistics(models[0], batches)
    plots.write(model_plots.draw_environments(statistics), PICTURES / "environments.webp")
    patterns = estimate_patterns(models[0], batches[:50])
    quality = signal_quality(models[0], patterns, batches[50:])
    plots.write(model_plots.draw_quality(quality), PICTURES / "signal_quality.webp")
    stability = ring_stability(models, batches)
    extremes = draw_rings(stability, data, chosen)

    record = {
        "command": " ".join(["python -m experiments.gallery.gallery", *sys.argv[1:]]),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip(),
        "seconds": round(time.perf_counter() - start, 1),
        "models": [
            {
                "seed": (summary := describe(path)["summary"])["seed"],
                "test energy MAE, eV": round(summary["test"]["energy_mae"]["value"], 5),
                "steps": summary["steps"],
                "training, s": summary["wall_time_s"],
            }
            for path in paths
        ],
        "omega": {
            "unit": "kcal/mol",
            "surface, 1/Å²": 3.8,
            "2nd and 98th percentile, model 0": ends,
            "aromatic against saturated carbon: mean, lowest, highest in kcal/mol": contrast,
        },
        "embeddings": {
            "models": embeddings,
            "rank correlation of PC1 with Z": order.with_z.round(3).tolist(),
            "between models": order.agreement.round(3).tolist(),
        },
        "environments, kcal/mol": {
            f"{chemical_symbols[z]}: {name}": [int(count), round(KCAL * mean, 2), round(KCAL * deviation, 2)]
            for name, z, count, mean, deviation in zip(*statistics[:5], strict=True)
            if count >= 100
        },
        "signal quality": {
            name: {
                chemical_symbols[z]: round(float(np.nanmedian(row)), 3) for z, row in zip(quality.z, rows, strict=True)
            }
            for name, rows in quality.hidden.items()
            if np.isfinite(rows).any()
        },
        "rings": {
            "molecules": len(chosen),
            "six-membered carbon rings": len(stability.energy[0]),
            "planar": int(stability.planar.sum()),
            "rank correlation between models, all": stability.rank_correlation.round(3).tolist(),
            "lowest and highest planar, kcal/mol by model": extremes,
        },
    }
    path = HERE.parent / "results" / "gallery.json"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(record, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
