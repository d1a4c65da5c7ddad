"""Molecular dynamics through ASE: our calculator and SchNetPack's in turn, the same weights, start and time step.

SchNetPack's calculator gets its own skin list around vesin, which is faster than any search of its own. The output
layer is scaled down, so that atoms fly as fast as at 300 K and are hardly deflected by forces that nobody has trained.
Both must agree on energy and forces before and after. `make bench` installs what it needs; then

    PYTHONPATH=. .bench/bin/python experiments/benchmarks/md.py [--threads 2] [--rounds 15]
"""

import argparse
import json
import time
from pathlib import Path

import ase.build
import numpy as np
import torch
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from vesin import NeighborList

import pygschnet
from experiments.benchmarks.peers import ROOT, facts
from pygschnet.simulation.dynamics import thermalise
from tests.fixtures.make_schnetpack import schnetpack, shifted_softplus  # stubs what it lacks
from tests.patterns import fill, schnetpack_names

from schnetpack.interfaces.ase_interface import SpkCalculator  # isort: skip
from schnetpack.transform.neighborlist import NeighborListTransform, SkinNeighborList  # isort: skip

CUTOFF, TEMPERATURE, TIME_STEP, SKIN = 5.0, 300.0, 0.5, 0.5
STEPS = {"one ethanol": 40, "water, 1,029 atoms": 5}  # in a turn


def ethanol() -> Atoms:
    return ase.build.molecule("CH3CH2OH")


def water() -> Atoms:
    rng, box = np.random.default_rng(0), Atoms(cell=[21.7] * 3, pbc=True)
    for site in np.ndindex(7, 7, 7):
        one = ase.build.molecule("H2O")
        one.rotate(rng.uniform(0, 360), rng.normal(size=3))
        one.positions += 3.1 * np.array(site)
        box += one
    return box


class Vesin(NeighborListTransform):
    def _build_neighbor_list(self, Z, positions, cell, pbc, cutoff):
        search = NeighborList(cutoff=float(cutoff), full_list=True)
        periodic = bool(pbc.any())
        i, j, shift = search.compute(
            positions.numpy(), cell.view(3, 3).numpy() if periodic else np.zeros((3, 3)), periodic, "ijS"
        )
        shift = torch.from_numpy(shift.astype(np.float64)) @ cell.view(3, 3)
        return torch.from_numpy(i.astype(np.int64)), torch.from_numpy(j.astype(np.int64)), shift


class Theirs(SpkCalculator):
    def __init__(self) -> None:
        super().__init__("", SkinNeighborList(Vesin(CUTOFF), cutoff_skin=SKIN), energy_unit="eV")

    def _load_model(self, model_file):
        ours = pygschnet.preset("schnetpack").representation
        net = schnetpack.representation.SchNet(
            ours.features,
            ours.interactions,
            schnetpack.nn.GaussianRBF(ours.gaussians, CUTOFF),
            schnetpack.nn.CosineCutoff(CUTOFF),
            ours.filters,
        )
        head = schnetpack.atomistic.Atomwise(
            ours.features, n_hidden=ours.features // 2, activation=shifted_softplus, output_key="energy"
        )
        modules = [head, schnetpack.atomistic.Forces(energy_key="energy", force_key="forces")]
        model = schnetpack.model.NeuralNetworkPotential(net, [schnetpack.atomistic.PairwiseDistances()], modules)
        fill(model, schnetpack_names(ours.interactions))
        head.outnet[1].weight.data *= 1e-3
        return model.eval()


def ours() -> pygschnet.Calculator:
    model = pygschnet.preset("schnetpack")
    assert model.cutoff == CUTOFF
    fill(model)
    model.head.dense_2.weight.data *= 1e-3
    return pygschnet.Calculator(model, skin=SKIN)


def measure(name: str, start: Atoms, rounds: int) -> dict:
    runs = {}
    for who, calculator in (("ours", ours()), ("schnetpack", Theirs())):
        atoms = start.copy()
        thermalise(atoms, TEMPERATURE, np.random.default_rng(0))
        atoms.calc = calculator
        runs[who] = VelocityVerlet(atoms, TIME_STEP * units.fs)
        runs[who].run(3)
    before, seconds = difference(runs), {who: [] for who in runs}
    for turn in range(rounds):
        for who in list(runs)[:: (-1) ** turn]:
            begin = time.perf_counter()
            runs[who].run(STEPS[name])
            seconds[who].append((time.perf_counter() - begin) / STEPS[name])
    ms = {who: np.percentile(values, [50, 25, 75]) * 1000 for who, values in seconds.items()}
    row = {
        "system": name,
        "ours_ms_per_step": round(ms["ours"][0], 3),
        "schnetpack_ms_per_step": round(ms["schnetpack"][0], 3),
        "ratio": round(ms["schnetpack"][0] / ms["ours"][0], 2),
        "ours_quartiles_ms": ms["ours"][1:].round(3).tolist(),
        "schnetpack_quartiles_ms": ms["schnetpack"][1:].round(3).tolist(),
        "relative_difference_of_forces": [float(f"{value:.1e}") for value in (before, difference(runs))],
        "searches_in_steps": [runs["ours"].atoms.calc.neighbours.searches, rounds * STEPS[name] + 3],
        "rounds": rounds,
    }
    print(json.dumps(row, indent=2), flush=True)
    return row


def difference(runs: dict[str, VelocityVerlet]) -> float:
    """Of the forces on the same positions, in norm."""
    atoms = runs["ours"].atoms.copy()
    forces = []
    for calculator in (ours(), Theirs()):
        atoms.calc = calculator
        forces.append(atoms.get_forces())
    value = np.linalg.norm(forces[0] - forces[1]) / np.linalg.norm(forces[0])
    if value > 1e-4:
        raise SystemExit(f"the calculators disagree, by {value:.1e}")
    return value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=ROOT / "experiments/results/md-cpu.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    systems = {"one ethanol": ethanol(), "water, 1,029 atoms": water()}
    rows = [measure(name, atoms, options.rounds) for name, atoms in systems.items()]
    options.out.write_text(json.dumps({**facts(options), "rows": rows}, indent=2) + "\n")
