"""The data file, its batches, splits and samplers: laws on random molecules, and damage of every kind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch

from pygschnet import InputError, RadiusGraph
from pygschnet.datasets import Files, Molecules
from pygschnet.datasets.border import Block
from pygschnet.datasets.convert import compositions, write_edges_file, write_molecules
from pygschnet.datasets.sampler import BatchSampler
from pygschnet.datasets.splits import check_split, describe_split, draw_split, group_split, read_split, write_split
from pygschnet.datasets.store import Store, writing
from tests.structures import molecules

SOURCE = {"source": {"class": "test", "files": {}}}


def blocks(several, size):
    for first in range(0, len(several), size):
        part = several[first : first + size]
        n_atoms = np.array([len(one.z) for one in part])
        z, pos = (np.concatenate([one[name].numpy() for one in part]) for name in ("z", "pos"))
        energy = np.arange(first, first + len(part), dtype=float)
        atoms = {"z": z.astype(np.uint8), "pos": pos, "forces": 2 * pos}
        yield Block(
            n_atoms, atoms, {"energy": energy}, {"parity": [str(k % 2) for k in range(first, first + len(part))]}
        )


def grid(count, atoms=4, seed=0):
    """Molecules on a lattice, of one composition each third."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)
    for k in range(count):
        n = atoms + k % 3
        pos = places[:n] * 1.2 + rng.normal(scale=0.02, size=(n, 3))
        data = {"z": torch.full((n,), 6), "pos": torch.from_numpy(pos)}
        yield Batch(**data)


@pytest.fixture
def store(tmp_path):
    write_molecules(tmp_path / "grid.safetensors", blocks(list(grid(30)), 7), {}, SOURCE)
    return tmp_path / "grid.safetensors"


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(several=st.lists(molecules(), min_size=1, max_size=7), size=st.integers(1, 4), data=st.data())
def test_what_is_written_is_read(tmp_path_factory, monkeypatch, several, size, data):
    """Whatever the blocks were, items and batches hold the same numbers and the edges that the graph finds."""
    folder, graph = tmp_path_factory.mktemp("store"), RadiusGraph(2.5)
    monkeypatch.setattr("pygschnet.datasets.molecules.CHUNK", 6)  # several chunks of atoms
    write_molecules(folder / "with.safetensors", blocks(several, size), {}, SOURCE, graph)
    write_molecules(folder / "without.safetensors", blocks(several, size), {}, SOURCE)
    stored, bare = Store(folder / "with.safetensors"), Store(folder / "without.safetensors")
    write_edges_file(folder / "edges.safetensors", bare, graph, {})
    stored.verify()
    names = (["z", "pos", "forces"], ["energy"])
    index = data.draw(st.lists(st.integers(0, len(several) - 1), min_size=1, max_size=5))
    wanted = Batch.from_data_list([several[k] for k in index])
    wanted = graph(wanted)
    for edges in (stored, Store(folder / "edges.safetensors"), None):
        batch = Molecules(stored, *names, graph, edges).batch(index)
        for name in ("z", "pos", "edge_index", "batch", "ptr", "edge_cutoff"):
            assert torch.equal(batch[name], wanted[name]), name
        assert torch.equal(batch.forces, 2 * batch.pos)
        assert batch.energy.tolist() == index
        for one, k in zip(batch.to_data_list(), index, strict=True):
            assert torch.equal(one.edge_index, graph(several[k].clone()).edge_index)


def test_periodic_edges_are_stored(tmp_path):
    rng = np.random.default_rng(0)
    pos = rng.uniform(0, 4, (12, 3))
    cell = np.stack([np.diag([4.0, 4.5, 5.0])] * 3)
    molecules = {"cell": cell, "pbc": np.array([[True] * 3, [True, True, False], [False] * 3])}
    block = Block(np.array([3, 4, 5]), {"z": np.full(12, 14, np.uint8), "pos": pos}, molecules)
    write_molecules(tmp_path / "x.safetensors", [block], {}, SOURCE, RadiusGraph(4.0))
    store = Store(tmp_path / "x.safetensors")
    stored = Molecules(store, ["z", "pos"], ["cell", "pbc"], RadiusGraph(4.0), store)
    found = stored.with_edges(RadiusGraph(4.0))
    for index in ([0], [2, 1], [1, 0, 2, 1]):
        ours, wanted = stored.batch(index), found.batch(index)
        assert all(torch.equal(ours[name], wanted[name]) for name in wanted.keys())  # noqa: SIM118
        assert ours.edge_shift.any()
        for one, other in zip(ours.to_data_list(), wanted.to_data_list(), strict=True):
            assert torch.equal(one.edge_shift, other.edge_shift) and torch.equal(one.edge_index, other.edge_index)
    with pytest.raises(IndexError):
        stored[3]


def test_an_older_cutoff_is_not_reused(store, tmp_path):
    def edges(cutoff):
        data = Files(str(store), cutoff=cutoff, train=10, val=5, cache=str(tmp_path / "cache"))
        data.setup("fit")
        return data.molecules.batch(range(30))

    short, long = edges(1.3), edges(2.0)
    assert short.edge_index.shape[1] < long.edge_index.shape[1]
    assert torch.equal(edges(1.3).edge_index, short.edge_index) and (short.edge_cutoff == 1.3).all()
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 2


def test_edges_of_changed_positions_are_not_reused(tmp_path):
    """The same file name with other positions: the edges in the cache belong to the old ones."""
    graphs = []
    for scale in (1.0, 1.5):
        structures = list(grid(5))
        for one in structures:
            one.pos *= scale
        write_molecules(tmp_path / "x.safetensors", blocks(structures, 5), {}, SOURCE)
        data = Files(str(tmp_path / "x.safetensors"), cutoff=1.5, train=3, val=1, cache=str(tmp_path / "cache"))
        data.setup("fit")
        graphs.append(data.molecules.batch([0, 1]).edge_index.shape[1])
    assert graphs[0] > graphs[1] == 0


def test_changed_files_are_read_again(tmp_path):
    path = tmp_path / "x.npz"
    for energy in (1.0, 2.0):
        np.savez(
            path, z=[8, 1], R=np.full((10, 2, 3), [[0], [0.55]]), E=np.full(10, energy), extra=np.zeros(int(energy))
        )
        data = Files(str(path), train=5, val=2, cutoff=9.0)
        data.setup("fit")
        assert data.molecules[0].energy.item() == energy


def test_checksums(store):
    Store(store).verify()
    content = bytearray(store.read_bytes())
    content[-3] ^= 1
    store.write_bytes(content)
    with pytest.raises(InputError, match="z of .* have changed since they were written: convert again"):
        Store(store).verify()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "model", "later"])
def test_files_that_are_no_store(store, damage):
    content = store.read_bytes()
    if damage == "model":
        from safetensors.numpy import save_file

        save_file({"weight": np.zeros(3)}, store, {"pygschnet": json.dumps({"format": 1})})
    else:
        later = content.replace(b'\\"format\\": 1', b'\\"format\\": 9')
        store.write_bytes({"cut": content[:-1], "empty": b"", "text": b"molecules", "later": later}[damage])
    wanted = {"later": "has the format 9, this version reads 1: update", "model": "holds no molecules"}
    with pytest.raises(InputError, match=wanted.get(damage, "is not a data file, or is cut short")):
        Store(store)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    """Whenever the disk fills, while the arrays grow or while the file is put together, the error says so."""

    class Full:
        def __init__(self, file, room):
            self.file, self.room = file, room

        def write(self, content):
            self.room -= len(content)
            if self.room < 0:
                raise OSError(28, "No space left on device")
            return self.file.write(content)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

    original = Path.open

    def limited(mode, room):
        return lambda path, m="r", *a: Full(original(path, m, *a), room) if m == mode else original(path, m, *a)

    for mode, room in (("w+b", 100), ("wb", 1000)):
        monkeypatch.setattr(Path, "open", limited(mode, room))
        with pytest.raises(OSError, match="No space left"):
            write_molecules(tmp_path / "x.safetensors", blocks(list(grid(30)), 7), {}, SOURCE)
        assert list(tmp_path.iterdir()) == []


def test_an_interrupted_conversion_leaves_the_old_file(store):
    before = store.read_bytes()

    def interrupted():
        yield from blocks(list(grid(9)), 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_molecules(store, interrupted(), {}, SOURCE)
    assert store.read_bytes() == before and list(store.parent.iterdir()) == [store]


def test_blocks_that_do_not_fit_together(tmp_path):
    first, second = (next(blocks(list(grid(4)), 4)) for _ in range(2))
    del second.atoms["forces"]
    with pytest.raises(InputError, match="from molecule 4 on the data differ in forces"):
        write_molecules(tmp_path / "x.safetensors", [first, second], {}, SOURCE)
    second.atoms["forces"] = np.zeros((18, 2))
    with pytest.raises(InputError, match="forces has rows of float64 \\[2\\] after rows of float64 \\[3\\]"):
        write_molecules(tmp_path / "x.safetensors", [first, second], {}, SOURCE)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_prepare_the_same_data(tmp_path):
    """Both come out with the same data, one of them converts."""
    path = tmp_path / "x.npz"
    rng = np.random.default_rng(0)
    np.savez(path, z=[8, 1, 1], R=rng.normal(size=(500, 3, 3)) * 3, E=np.zeros(500))
    script = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from pygschnet.datasets import Files, convert\n"
        "write = convert.write_molecules\n"
        "from pygschnet.datasets import base\n"
        "base.write_molecules = lambda *a: (print('converting'), write(*a))\n"
        "data = Files(sys.argv[1], cutoff=3.0, cache=sys.argv[2]); data.setup('fit')\n"
        "print(len(data.molecules), data.describe_split()['sha256'])"
    )
    command = [sys.executable, "-c", script, str(path), str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    assert outputs[0][-1] == outputs[1][-1] and outputs[0][-1].startswith("500 ")
    assert sum(lines.count("converting") for lines in outputs) == 1


def test_random_batches_do_not_fill_the_memory(tmp_path):
    """Random batches from a file far larger than the limit: only their rows are read."""
    path = tmp_path / "large.safetensors"
    with writing(path) as columns:
        columns.metadata = {"fields": {}}
        for name in ("ptr", "pos", "z"):
            count = 2_000_001 if name == "ptr" else 20_000_000
            for first in range(0, count, 1_000_000):
                rows = np.arange(first, min(first + 1_000_000, count))
                columns.append(
                    name, {"ptr": rows * 10, "z": rows.astype(np.uint8), "pos": rows[:, None] * np.ones(3)}[name]
                )
    script = (
        "import sys, numpy as np, os\n"
        "from pygschnet.datasets.molecules import Molecules\n"
        "from pygschnet.datasets.store import Store\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096 / 1e6\n"
        "data = Molecules(Store(sys.argv[1]), ['z', 'pos'], [], None)\n"
        "before, rng, highest = resident(), np.random.default_rng(0), 0\n"
        "for k in range(1500):\n"
        "    index = rng.integers(0, len(data), 32)\n"
        "    assert data.batch(index).pos[::10, 0].tolist() == (index * 10).tolist()\n"
        "    highest = max(highest, resident()) if k % 10 == 0 else highest\n"
        "print(highest - before)"
    )
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert path.stat().st_size > 500e6
    assert float(output.stdout) < 250


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(20, 80), st.booleans(), st.integers(0, 5))
def test_every_molecule_once_and_no_batch_above_the_budget(sizes, budget, shuffle, epoch):
    sampler = BatchSampler(np.array(sizes), budget, shuffle, seed=3)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(index for batch in batches for index in batch) == list(range(len(sizes)))
    assert all(batch and sum(sizes[index] for index in batch) <= budget for batch in batches)
    assert len(batches) == len(sampler)
    sampler.set_epoch(epoch)
    assert list(sampler) == batches
    if not shuffle:
        assert [index for batch in batches for index in batch] == list(range(len(sizes)))


def test_orders_follow_from_seed_and_epoch():
    def order(seed, epoch):
        sampler = BatchSampler(np.ones(50, np.int64), 8, True, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    torch.manual_seed(0)
    np.random.seed(0)
    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)
    assert [len(batch) for batch in order(2, 7)] == [8] * 6 + [2]
    sampler = BatchSampler(np.ones(50, np.int64), 8, True)
    assert [list(sampler) for _ in range(3)] == [order(0, epoch) for epoch in range(3)]
    next(iter(sampler))  # a pass that is broken off is one, too
    assert list(sampler) == order(0, 4)


def test_orders_that_fill_badly_are_drawn_again():
    """Of sixes and fives two fit only if they differ: the number of batches varies a lot, but not what comes out."""
    sampler = BatchSampler(np.array([6, 5] * 50), 11, True)
    for epoch in range(40):
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(sampler) < 100


def test_a_budget_wastes_little():
    sizes = np.random.default_rng(0).integers(5, 30, 5000)
    assert len(BatchSampler(sizes, 600, True)) < 1.07 * sizes.sum() / 600


def test_a_molecule_above_the_budget():
    with pytest.raises(InputError, match="a molecule has the size 9, which does not fit in a batch of 8"):
        BatchSampler(np.array([3, 9]), 8)


@settings(deadline=None)
@given(
    st.integers(12, 60),
    st.one_of(st.none(), st.integers(1, 5), st.floats(0.1, 0.5)),
    st.one_of(st.integers(0, 3), st.floats(0.05, 0.2)),
    st.one_of(st.none(), st.integers(0, 3), st.floats(0.05, 0.2)),
    st.booleans(),
)
def test_splits_are_disjoint_and_of_the_size_asked_for(count, train, val, test, grouped):
    sizes, everything = {"train": train, "val": val, "test": test}, torch.arange(count)
    if train is None and test is None:
        with pytest.raises(InputError, match="only one of train, val and test"):
            draw_split(everything, {}, sizes, 0)
        return
    members = 3 if grouped else 1
    groups = torch.arange(count).repeat(members)
    split = (
        group_split(groups, torch.arange(len(groups)), {}, sizes, 1)
        if grouped
        else draw_split(everything, {}, sizes, 1)
    )
    check_split(split, count * members)
    for name, size in sizes.items():
        if size is not None:
            assert len(split[name]) == members * (round(size * count) if isinstance(size, float) else size)
    if None in sizes.values():
        assert sum(len(rows) for rows in split.values()) == count * members
    drawn = [set(groups[rows].tolist()) for rows in split.values()]
    assert not (drawn[0] & drawn[1] or drawn[0] & drawn[2] or drawn[1] & drawn[2])


def test_pools_are_kept_apart():
    everything, pools = torch.arange(30), {"train": torch.arange(10), "test": torch.arange(20, 30)}
    split = draw_split(everything, pools, {"train": None, "val": 3, "test": 4}, 0)
    assert set(split["train"].tolist()) | set(split["val"].tolist()) == set(range(10))
    assert len(split["test"]) == 4 and set(split["test"].tolist()) <= set(range(20, 30))
    split = draw_split(
        everything, {"val": torch.arange(5), "test": torch.arange(5, 9)}, dict.fromkeys(pools | {"val": 0}), 0
    )
    assert split["train"].sort()[0].tolist() == list(range(9, 30))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"train": [0, 1], "val": [1], "test": [2]}, "1 molecules, 1 first, are in the train and in the val set"),
        ({"train": [0, 0], "val": [1], "test": [2]}, "the train set names 1 molecules twice"),
        ({"train": [0], "val": [1], "test": [10]}, "the test set names molecules 10 to 10, of 0 to 9"),
        ({"train": [-1], "val": [1], "test": [2]}, "the train set names molecules -1 to -1"),
    ],
)
def test_splits_that_are_none(rows, message):
    with pytest.raises(InputError, match=message):
        check_split({name: torch.tensor(indices) for name, indices in rows.items()}, 10)


def test_a_split_is_kept_and_compared(store, tmp_path):
    def data(**settings):
        data = Files(str(store), cutoff=2.0, train=20, val=5, **settings)
        data.setup("fit")
        return data

    path = tmp_path / "run" / "split.npz"
    data().keep_split(path)
    data().keep_split(path)
    with pytest.raises(InputError, match="the split is not that of .*split.npz, with which this training began"):
        data(split_seed=1).keep_split(path)
    again = data(split_seed=1, split_file=str(path))
    again.keep_split(path)
    assert again.describe_split() == data().describe_split()
    schnetpack = tmp_path / "split.npz"
    np.savez(schnetpack, **{f"{name}_idx": rows.numpy() for name, rows in data().split.items()})
    assert describe_split(read_split(schnetpack)) == data().describe_split()
    write_split(read_split(schnetpack), path)
    np.savez(schnetpack, train=[0], val=[1])
    with pytest.raises(InputError, match="has no array test or test_idx; it has train, val"):
        read_split(schnetpack)


def test_groups(store):
    """No word and no composition is on two sides."""
    for group_by in ("parity", "composition"):
        data = Files(str(store), group_by=group_by, train=1, val=0, cutoff=2.0)
        data.setup("fit")
        groups = compositions(data.store) if group_by == "composition" else data.store["words.parity"]
        assert len(set(groups[data.split["train"].numpy()])) == 1
        assert not set(groups[data.split["train"].numpy()]) & set(groups[data.split["test"].numpy()])
    with pytest.raises(InputError, match="the data have no groups 'colour'; there are: composition, parity"):
        Files(str(store), group_by="colour", cutoff=2.0).setup("fit")


@pytest.mark.parametrize("ending", ["csv", "txt", "npy", "json"])
def test_rows_from_files(store, tmp_path, ending):
    rows, path = [4, 2, 9, 11], tmp_path / f"rows.{ending}"
    if ending == "npy":
        np.save(path, rows)
    else:
        path.write_text({"csv": "4\n2\n9\n11\n", "txt": "4 2 9 11", "json": "[4, 2, 9, 11]"}[ending])
    data = Files(str(store), train_rows=str(path), train=None, val=1, test_rows="parity=1", test=2, cutoff=2.0)
    if ending == "npy":
        with pytest.raises(InputError, match="2 molecules are both in"):
            data.setup("fit")
    path.write_text("4, 2, 8, 10") if ending != "npy" else np.save(path, [4, 2, 8, 10])
    if ending == "json":
        with pytest.raises(InputError, match="does not list row numbers"):
            data.setup("fit")
        path.write_text("[4, 2, 8, 10]")
    data.setup("fit")
    assert sorted([*data.split["train"].tolist(), *data.split["val"].tolist()]) == [2, 4, 8, 10]
    assert (data.split["test"] % 2 == 1).all()


def test_another_process_maps_the_file_itself(store):
    import pickle

    data = Molecules(Store(store), ["z", "pos"], ["energy"], RadiusGraph(2.0))
    content = pickle.dumps(data)
    assert len(content) < 3000
    assert torch.equal(pickle.loads(content).batch([3, 5]).pos, data.batch([3, 5]).pos)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written(store, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o500)
    with pytest.raises(OSError, match="Permission denied"):
        Files(str(store), cutoff=2.0, cache=str(cache)).setup("fit")
