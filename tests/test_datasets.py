"""Readers, units, splits, batches, and files that cannot be read."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from pygschnet import InputError, RadiusGraph
from pygschnet.datasets import MD17, Molecules
from pygschnet.datasets.splits import random_split
from pygschnet.units import energy_factor, unit_factor
from tests.structures import SHARED, molecules

KCAL = 0.0433641
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="the reference data are not beside this checkout")


def frames(count=20, atoms=3):
    rng = np.random.default_rng(0)
    positions = np.array([[0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]])[:atoms] + rng.normal(scale=0.1, size=(count, atoms, 3))
    energy, forces = rng.normal(size=count) - 1000, rng.normal(size=(count, atoms, 3))
    return {"z": np.array([8, 1, 1])[:atoms], "R": positions, "E": energy, "F": forces}


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        arrays = {name: array for name, array in (frames() | changes).items() if array is not None}
        np.savez(tmp_path / "frames.npz", **arrays)
        return str(tmp_path / "frames.npz")

    return write


def read(path, **settings):
    data = MD17(path, **({"train": 10, "val": 5} | settings))
    data.setup("fit")
    return data


def test_md17_layout(write):
    data = read(write(), cutoff=1.2)
    item, raw = data.molecules[7], frames()
    assert item.z.tolist() == [8, 1, 1]
    torch.testing.assert_close(item.pos, torch.from_numpy(raw["R"][7]))
    assert item.energy.item() == pytest.approx(raw["E"][7] * KCAL, rel=1e-5)
    torch.testing.assert_close(item.forces, torch.from_numpy(raw["F"][7] * KCAL), rtol=1e-5, atol=0)
    assert item.energy.dtype == item.pos.dtype == torch.float64
    assert torch.equal(item.edge_index, RadiusGraph(1.2)(item.clone()).edge_index)


def test_energies_in_a_column_and_units_in_the_file(write):
    raw = frames()
    with pytest.warns(UserWarning, match="nearest neighbours are 0.54 times .* perhaps Å given as Bohr"):
        data = read(write(E=raw["E"][:, None], F=raw["F"] / 50, e_unit="Ha", r_unit="Bohr"))
    assert data.molecules[0].energy.item() == pytest.approx(raw["E"][0] * 27.211386)
    torch.testing.assert_close(data.molecules[0].pos, torch.from_numpy(raw["R"][0] * 0.52917721), rtol=1e-6, atol=0)
    forces = torch.from_numpy(raw["F"][0] / 50 * 27.211386 / 0.52917721)
    torch.testing.assert_close(data.molecules[0].forces, forces, rtol=1e-6, atol=0)


def test_rmd17_layouts(write):
    raw = frames()
    names = {"z": None, "R": None, "E": None, "F": None, "nuclear_charges": raw["z"], "coords": raw["R"]}
    new = {"energies": raw["E"], "forces": raw["F"]}
    old = {"old_energies": raw["E"] - 5, "old_forces": 2 * raw["F"]}
    path = write(**names, **new, **old)
    assert torch.equal(read(path).molecules[3].forces, read(path, layout="rmd17").molecules[3].forces)
    torch.testing.assert_close(read(path, layout="rmd17_old").molecules[3].forces, 2 * read(path).molecules[3].forces)
    assert read(path, layout="rmd17_old").molecules[3].energy < read(path).molecules[3].energy


def test_without_forces(write):
    assert "forces" not in read(write(F=None)).molecules[0]


@needs_shared
def test_real_md17_forces_are_the_slope_of_the_energy():
    """−F·Δr along consecutive frames against ΔE: units, signs and order are right or this is not 1."""
    data = read(str(SHARED / "md17_ethanol_first2000/md17_ethanol_first2000.npz"), train=1000, val=100)
    batch = data.molecules.batch(range(2000))
    energy, pos, forces = batch.energy, batch.pos.view(2000, 9, 3), batch.forces.view(2000, 9, 3)
    work = -((forces[1:] + forces[:-1]) / 2 * pos.diff(dim=0)).sum((1, 2))
    slope = (work * energy.diff()).sum() / energy.diff().square().sum()
    assert slope.item() == pytest.approx(1.0, abs=0.01)


@needs_shared
def test_official_split_of_rmd17():
    path = str(SHARED / "md17/ethanol.npz")
    data = read(path, train=950, val=50, train_rows="train_01", test_rows="test_01", layout="rmd17_old")
    assert data.describe_split()["train"] == 950 and data.describe_split()["test"] == 1000
    with np.load(path) as file:
        used = torch.cat([data.split["train"], data.split["val"]]).sort()[0]
        assert torch.equal(used, torch.from_numpy(file["train_01"].astype(np.int64)).sort()[0])
    with pytest.raises(InputError, match="5 molecules are both in train_01 and in test_02"):
        read(path, train=950, val=50, train_rows="train_01", test_rows="test_02")


def test_split_depends_on_its_own_seed_only(write):
    path = write()
    torch.manual_seed(1)
    first = read(path)
    torch.manual_seed(2)
    second, third = read(path), read(path, split_seed=1)
    assert first.describe_split() == second.describe_split()
    assert first.describe_split()["sha256"] != third.describe_split()["sha256"]
    parts = [first.split[name].tolist() for name in ("train", "val", "test")]
    assert sorted([*parts[0], *parts[1], *parts[2]]) == list(range(20))
    assert first.describe()["files"] == {path: hashlib.sha256(Path(path).read_bytes()).hexdigest()}


@settings(deadline=None, max_examples=20)
@given(st.lists(molecules(), min_size=1, max_size=6), st.data())
def test_batches_are_what_pyg_would_make(several, data):
    """Gathering from flat arrays gives the batch that `Batch.from_data_list` gives, and it comes apart again."""
    ptr = torch.tensor([0, *(len(one.z) for one in several)]).cumsum(0)
    z, pos = torch.cat([one.z for one in several]), torch.cat([one.pos for one in several])
    energy = torch.arange(len(several), dtype=torch.float64)
    arrays = {"z": z, "pos": pos, "ptr": ptr, "energy": energy, "forces": 2 * pos}
    arrays = {name: array.numpy() for name, array in arrays.items()}
    flat = Molecules(arrays, ["z", "pos", "forces"], ["energy"], RadiusGraph(2.0))
    index = data.draw(st.lists(st.integers(0, len(several) - 1), min_size=1, max_size=5))
    ours, theirs = flat.batch(index), Batch.from_data_list([flat[k] for k in index])
    assert set(ours.keys()) == set(theirs.keys())
    for name in ours.keys():  # noqa: SIM118, not a dictionary
        assert torch.equal(ours[name], theirs[name]), name
    assert ours.num_graphs == len(index)
    for ours_one, theirs_one in zip(ours.to_data_list(), theirs.to_data_list(), strict=True):
        assert all(torch.equal(ours_one[name], theirs_one[name]) for name in theirs_one.keys())  # noqa: SIM118


def test_a_pyg_loader_takes_the_items(write):
    data = read(write())
    batch = next(iter(DataLoader(data.molecules, batch_size=4)))
    assert torch.equal(batch.pos, next(iter(data.predict_dataloader())).pos[: 4 * 3])


@pytest.mark.parametrize("workers", [0, 1])
def test_loaders(write, workers):
    data = read(write(), batch_size=4, eval_batch_size=3, num_workers=workers)
    train = [batch.energy for batch in data.train_dataloader()]
    assert [len(energy) for energy in train] == [4, 4, 2]
    assert torch.equal(torch.cat(train).sort()[0], data.molecules.batch(data.split["train"]).energy.sort()[0])
    everything = torch.cat([batch.energy for batch in data.predict_dataloader()])
    assert torch.equal(everything, torch.tensor(data.store["energy"]))
    assert sum(len(batch.energy) for batch in data.test_dataloader()) == 5


def bad(name, index, value):
    array = frames()[name]
    array[index] = value
    return {name: array}


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        (bad("R", (3, 1, 0), np.nan), {}, r"R of .* \(in Å\) holds 1 values .* nan at \[3, 1, 0\]"),
        (bad("E", 4, np.inf), {}, r"E of .* \(in kcal/mol\) holds 1 values .* inf at \[4\]"),
        (bad("F", (0, 0, 0), -np.inf), {}, r"F of .* \(in kcal/mol/Å\) holds 1"),
        (bad("z", 0, 0), {}, "holds 0…1: elements are 1 to 99"),
        (bad("z", 0, 120), {}, "holds 1…120"),
        (bad("R", (2, 1), frames()["R"][2, 0]), {}, "stand on the same spot"),
        ({"z": np.zeros(0)}, {}, "must list the atomic numbers"),
        ({"z": np.array([8, 1])}, {}, r"R of .* has the shape \[20, 3, 3\]; z of .* of \[2\] needs \[frames, 2, 3\]"),
        ({"E": np.zeros(19)}, {}, r"E of .* has the shape \[19\]; 20 molecules of 60 atoms need \[20\]"),
        ({"F": np.zeros((20, 3))}, {}, r"F of .* has the shape \[20, 3\]"),
        ({"E": None, "e": np.zeros(20)}, {}, "has no E, which the layout md17 needs; it has z, R, F, e"),
        ({"E": np.array(["a"] * 20)}, {}, "not numbers"),
        ({"e_unit": "kcal"}, {}, "'kcal' is no unit of energy: give one like eV"),
        ({}, {"length_unit": "mile"}, "unknown unit 'mile' in 'mile': use ev, mev, ha"),
        ({}, {"train": 18, "val": 5}, "18 for train .* 5 for val = 23 structures asked for, but only 20 are there"),
        ({}, {"test": 6}, "6 for test = 6 structures asked for, but only 5 are there"),
        ({}, {"train": 0}, "at least one training molecule"),
        ({}, {"val": -1}, "must not be negative"),
        ({}, {"train_rows": "train_09"}, "no set of rows, word or file 'train_09'; there are: none"),
        ({"rows": np.array([0, 20])}, {"train_rows": "rows"}, "no set of rows, word or file 'rows'; there are: none"),
        (
            {"a": np.arange(12), "b": np.arange(10, 20)},
            {"train_rows": "a", "test_rows": "b", "val": 2},
            "2 molecules are both in a and in b: choose sets that belong together",
        ),
        ({}, {"layout": "rmd17"}, "has no nuclear_charges, coords, energies, which the layout rmd17 needs"),
        ({}, {"batch_size": 0}, "batch sizes must be 1 or more"),
    ],
)
def test_bad_files_and_settings(write, changes, settings, message):
    with pytest.raises(InputError, match=message):
        read(write(**changes), **settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no file"), (b"", "not an npz file"), (b"PK\x03\x04nonsense", "not an npz file")],
)
def test_files_that_are_no_npz(tmp_path, content, message):
    path = tmp_path / "x.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(str(path))


def test_a_pickle_is_not_opened(write):
    with pytest.raises(InputError, match="E of .* cannot be read: Object arrays cannot be loaded"):
        read(write(E=np.array([{"a": 1}] * 20, dtype=object)))


def test_a_damaged_array(write):
    path = write()
    content = bytearray(Path(path).read_bytes())
    start = content.index(b"R.npy") + 200
    content[start : start + 50] = bytes(50)
    Path(path).write_bytes(content)
    with pytest.raises(InputError, match="R of .* cannot be read: Bad CRC-32"):
        read(path)


def test_units():
    assert energy_factor("Hartree") == energy_factor(" ha ") == pytest.approx(27.211386, rel=1e-8)
    assert energy_factor("kcal/mol") == pytest.approx(0.0433641, rel=1e-5)
    assert unit_factor("Å") == unit_factor("Ang") == 1.0


@given(st.integers(1, 30), st.integers(0, 2**31))
def test_random_split_is_disjoint(size, seed):
    pool = torch.arange(100) * 3
    split = random_split(pool, {"train": size, "val": 2 * size}, seed)
    both = torch.cat([split["train"], split["val"]])
    assert len(both.unique()) == len(both) == 3 * size
    assert torch.isin(both, pool).all()
