"""Several processes do what one would: the same gradients, the same errors, every molecule once."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given
from hypothesis import strategies as st

from pygschnet.datasets import sampler as sampler_file
from pygschnet.datasets.sampler import BatchSampler, share
from pygschnet.ranks import interleave

NAMES = ("CH4", "H2O", "C6H6", "NH3", "C2H6", "CH3CH2OH", "HCN", "CO2", "C4H4O", "CH3NO2", "H2", "C3H8")


@pytest.fixture(scope="module")
def molecules(tmp_path_factory):
    """47 molecules of very different sizes, with labels."""
    path, random, frames = tmp_path_factory.mktemp("data") / "mixed.xyz", np.random.default_rng(0), []
    for number in range(47):
        atoms = ase.build.molecule(NAMES[number % len(NAMES)])
        atoms.rattle(0.05, seed=number)
        energy, forces = -20.0 * len(atoms) + random.normal(), random.normal(size=(len(atoms), 3))
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    ase.io.write(path, frames)
    return path


def environment(tmp_path, **more):
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "MASTER", "NODE"))}
    return keep | {"PYGSCHNET_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"} | more


def start(tmp_path, molecules, name, *arguments, **more):
    command = [sys.executable, "-W", "ignore", "-m", "tests.parallel_run", molecules, tmp_path / name, *arguments]
    root = Path(__file__).parents[1]
    return subprocess.Popen(command, cwd=root, env=environment(tmp_path, **more), stdout=subprocess.PIPE, text=True)


def results(tmp_path, name, *processes):
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    return torch.load(tmp_path / name, weights_only=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def assert_same(one, several):
    assert one.keys() == several.keys()
    for run, expected in one.items():
        tolerance = 1e-10 if "64" in run else 1e-5
        assert len(several[run]["gradients"]) == len(expected["gradients"]) == 2 * 5
        for ours, theirs in zip(several[run]["gradients"], expected["gradients"], strict=True):
            assert (ours - theirs).norm() <= tolerance * theirs.norm(), run
        ours, theirs = json.loads(several[run]["metrics"]), json.loads(expected["metrics"])
        assert {"test/energy_mae", "test/forces_mae", "val/loss"} <= theirs.keys() == ours.keys()
        for name in theirs:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-12 if "64" in run else 2e-6), (run, name)


def test_two_processes_have_the_gradients_of_one(tmp_path, molecules):
    """Energies only, forces only and both; batches of 8 of 33, so that the last has one molecule for two processes."""
    one = results(tmp_path, "one", start(tmp_path, molecules, "one"))
    several = results(tmp_path, "two", start(tmp_path, molecules, "two", "2"))
    assert_same(one, several)
    assert (tmp_path / "two-both-64-true" / "parity_forces.png").exists()


@given(st.lists(st.integers(1, 50), min_size=0, max_size=80), st.integers(1, 9))
def test_shares_are_even(costs, ranks):
    shares = share(np.array(costs, np.int64), ranks)
    assert sorted(item for items in shares for item in items) == list(range(len(costs)))
    loads = [sum(costs[item] for item in items) for items in shares]
    assert max(loads) - min(loads) <= max(costs, default=0)


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=60),
    st.integers(20, 60),
    st.integers(1, 5),
    st.integers(0, 3),
    st.booleans(),
)
def test_all_ranks_together_are_one(sizes, budget, ranks, epoch, training):
    sizes = np.array(sizes)

    def batches(rank, ranks):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sampler_file, "rank_and_number", lambda: (rank, ranks))
            sampler = BatchSampler(sizes, budget, training, 3, sizes if training else None)
            sampler.set_epoch(epoch)
            found = list(sampler)
            assert len(found) == len(sampler)
        return found

    alone, together = batches(0, 1), [batches(rank, ranks) for rank in range(ranks)]
    if training:  # shares of the same batches, at the same time
        for number, whole in enumerate(alone):
            assert sorted(item for each in together for item in each[number]) == sorted(whole)
    else:  # whole batches, none twice; who has none gets an empty one
        assert [batch for batch in interleave(together) if batch] == alone
        assert all(each for each in together)


def test_a_position_is_a_place_in_the_order_of_all_epochs():
    everything = BatchSampler(np.ones(50, np.int64), 8, True, 5)
    order = [batch for _ in range(3) for batch in everything]
    for position in range(2 * len(everything) + 1):
        sampler = BatchSampler(np.ones(50, np.int64), 8, True, 5, np.ones(50), lambda place=position: place)
        rest = list(sampler)
        assert rest == order[position : position + len(rest)]
        assert len(rest) == 7 - position % 7
