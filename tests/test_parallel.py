"""Several processes do what one would: the same gradients, the same errors, every molecule once."""

import json
import os
import shutil
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


def start(tmp_path, molecules, name, *arguments, launcher=(), prefix=(), **more):
    python = [*prefix, sys.executable, "-W", "ignore", *launcher]
    command = [*python, "-m", "tests.parallel_run", molecules, tmp_path / name, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], env=environment(tmp_path, **more), **pipes)


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
    for run in several:
        expected = one[run]
        tolerance = 1e-10 if "64" in run else 1e-5
        assert len(several[run]["gradients"]) == len(expected["gradients"]) == 2 * 5
        for ours, theirs in zip(several[run]["gradients"], expected["gradients"], strict=True):
            assert (ours - theirs).norm() <= tolerance * theirs.norm(), run
        ours, theirs = json.loads(several[run]["metrics"]), json.loads(expected["metrics"])
        assert {"test/energy_mae", "test/forces_mae", "val/loss"} <= theirs.keys() == ours.keys()
        for name in theirs:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-12 if "64" in run else 2e-6), (run, name)


@pytest.fixture(scope="module")
def one(tmp_path_factory, molecules):
    folder = tmp_path_factory.mktemp("one")
    return results(folder, "one", start(folder, molecules, "one"))


def test_two_processes_have_the_gradients_of_one(tmp_path, molecules, one):
    """Energies only, forces only and both; batches of 8 of 33, so that the last has one molecule for two processes."""
    several = results(tmp_path, "two", start(tmp_path, molecules, "two", "2"))
    assert several.keys() == one.keys()
    assert_same(one, several)
    assert (tmp_path / "two-both-64-true" / "parity_forces.png").exists()


def test_two_nodes_by_torchrun(tmp_path, molecules, one):
    port = free_port()

    def node(rank):
        launcher = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", f"--node_rank={rank}"]
        launcher += ["--master_addr=127.0.0.1", f"--master_port={port}"]
        return start(tmp_path, molecules, "torchrun", "1", "2", "both", launcher=launcher)

    assert_same(one, results(tmp_path, "torchrun", node(0), node(1)))


def slurm(rank, address, port):
    """What srun tells the processes of a job with two nodes and one process on each."""
    return {
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "training", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "2", "SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank), "SLURM_LOCALID": "0",
        "SLURM_NODELIST": address, "MASTER_PORT": port,
    }  # fmt: skip


def test_two_nodes_by_slurm(tmp_path, molecules, one):
    port = free_port()
    nodes = [start(tmp_path, molecules, "slurm", "1", "2", "both", **slurm(rank, "127.0.0.1", port)) for rank in (0, 1)]
    assert_same(one, results(tmp_path, "slurm", *nodes))


@pytest.fixture
def two_networks():
    """Two network namespaces with a cable between them: machines of their own, as far as networks are concerned."""
    names = [f"pyg{os.getpid()}{end}" for end in "ab"]
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs ip and root")

    def ip(*words):
        return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0

    try:
        made = [ip("netns", "add", name) for name in names]
        made += [ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])]
        for number, name in enumerate(names):
            made += [ip("link", "set", name, "netns", name)]
            made += [ip("-n", name, "addr", "add", f"10.77.0.{number + 1}/24", "dev", name)]
            made += [ip("-n", name, "link", "set", device, "up") for device in (name, "lo")]
        if not all(made):
            pytest.skip("network namespaces are not to be had here")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)


def test_two_nodes_with_networks_of_their_own(tmp_path, molecules, one, two_networks):
    nodes = []
    for rank, name in enumerate(two_networks):
        variables = slurm(rank, "10.77.0.1", "29511") | {"GLOO_SOCKET_IFNAME": name}
        prefix = ["ip", "netns", "exec", name]
        nodes.append(start(tmp_path, molecules, "apart", "1", "2", "both", prefix=prefix, **variables))
    assert_same(one, results(tmp_path, "apart", *nodes))


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
