"""Published data sets in their true formats, own files in every layout, laws on real data, and files that are wrong."""

import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile

import ase.db
import ase.io
import h5py
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from safetensors.numpy import save

from pygschnet import InputError
from pygschnet.datasets import ANI1, ISO17, MD17, QM7X, QM9, Files, readers
from pygschnet.datasets.checks import work_and_energy
from pygschnet.datasets.files import ANI1_ATOMS
from tests.structures import SHARED

HA, BOHR, KCAL, DEBYE, GPA = 27.211386, 0.52917721, 0.0433641, 0.20819434, 1 / 160.21766
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="the reference data are not beside this checkout")


@pytest.fixture
def read(tmp_path):
    """A data set that is set up, with a cache of its own, which holds nothing if the data cannot be read."""

    def read(path=None, kind=Files, **settings):
        given = {} if path is None else {"path": [str(p) for p in path] if isinstance(path, list) else str(path)}
        common = {"train": 1, "val": 0, "cutoff": 4.0, "store_edges": False, "cache": str(tmp_path / "cache")}
        data = kind(**given, **(common | settings))
        data.setup("fit")
        return data

    yield read
    left = [path.name for path in tmp_path.glob("cache/*") if path.suffix not in (".lock", ".safetensors")]
    assert not left


def nothing_cached(tmp_path):
    """Neither data nor remains of them; locks may stay."""
    return not [path for path in tmp_path.glob("cache/*") if path.suffix != ".lock"]


def energies(data, part):
    return sorted(data.molecules.batch(data.split[part]).energy.tolist())


def npz_bytes(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def hdf5_bytes(**arrays):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return buffer.getvalue()


# --- QM9

METHANE = """5
gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t-40.47893\t-40.476062\t\
-40.475117\t-40.498597\t6.469\t
C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689
H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921
H\t 1.0117308433\t 1.4637511618\t 2.765748*^-4\t 0.133922
H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923
H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923
1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\t3151.6788\t3151.7078
C\tC\t
InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4
"""
RULE = "=" * 105
REFERENCES = f"""{RULE}
  Ele-    ZPVE         U (0 K)      U (298.15 K)    H (298.15 K)    G (298.15 K)     CV
  ment   Hartree       Hartree        Hartree         Hartree         Hartree        Cal/(Mol Kelvin)
{RULE}
   H     0.000000     -0.500273      -0.498857       -0.497912       -0.510927       2.981
   C     0.000000    -37.846772     -37.845355      -37.844411      -37.861317       2.981
   N     0.000000    -54.583861     -54.582445      -54.581501      -54.598897       2.981
   O     0.000000    -75.064579     -75.063163      -75.062219      -75.079532       2.981
   F     0.000000    -99.718730     -99.717314      -99.716370      -99.733544       2.981
{RULE}
"""
NAMES = ("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv")
CV = 4.184 / 96485.33  # cal/mol/K in eV/K
INSIDE = {"mu": DEBYE, "alpha": BOHR**3, "r2": BOHR**2, "Cv": CV, "A": 1, "B": 1, "C": 1}


def raw_files():
    folder = SHARED / "qm9_samples"
    real = {number: (folder / f"raw_dsgdb9nsd_{number:06}.xyz").read_text() for number in (33459, 880)}
    return {33459: real[33459], 1: METHANE, 880: real[880]}  # not in order


def properties(number):
    return dict(zip(NAMES, map(float, raw_files()[number].splitlines()[1].split()[2:]), strict=True))


def tar_bytes(members, mode):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def qm9(tmp_path, read):
    """The files of figshare or PyG, by name, in a folder, and the data set that reads them."""
    if not SHARED.exists():
        pytest.skip("the reference data are not beside this checkout")

    def make(files=None, fell_apart=(2, 879, 881, 33458, 33460), **settings):
        numbers = [*fell_apart, *range(100_001, 103_055 - len(fell_apart))]
        lines = "".join(f"{k:8}    NC(=N)C#N    NC(=N)C#N    [NH]C(=[NH2])C#N    6.036217\n" for k in numbers)
        head = f"\nList of molecules among the 133885 GDB9 molecules\nfor\nwhich\n\n\n{RULE}\n# Index SMILES\n{RULE}\n"
        raw = {f"dsgdb9nsd_{number:06}.xyz": text.encode() for number, text in raw_files().items()}
        contents = {
            "dsgdb9nsd.xyz.tar.bz2": tar_bytes(raw, "w:bz2"),
            "uncharacterized.txt": f"{head}{lines}{RULE}\n".encode(),
            "atomref.txt": REFERENCES.encode(),
        }
        for name, content in (contents | (files or {})).items():
            (tmp_path / name).write_bytes(content)
            (tmp_path / f"{name}.sha256").unlink(missing_ok=True)
        return read(kind=QM9, root=str(tmp_path), **settings)

    return make


def test_qm9_raw(qm9):
    data = qm9()
    assert data.store["gdb_id"].tolist() == [1, 880, 33459]
    for item, number in zip((data.molecules[k] for k in range(3)), (1, 880, 33459), strict=True):
        for name, value in properties(number).items():
            assert item[name].item() == pytest.approx(value * INSIDE.get(name, HA), rel=1e-6), name
        rows = [row.replace("*^", "e").split() for row in raw_files()[number].splitlines()[2 : 2 + len(item.z)]]
        assert [("H", 0, 0, 0, 0, "C", "N", "O")[z - 1] for z in item.z.tolist()] == [row[0] for row in rows]
        numbers = torch.tensor([[float(x) for x in row[1:]] for row in rows], dtype=torch.float64)
        assert torch.equal(torch.cat([item.pos, item.charges[:, None]], 1), numbers)
    methane, atoms = data.molecules[0], data.reference_energies
    assert methane.energy.item() == pytest.approx(-40.47893 * HA)
    atomisation = methane.energy.item() - sum(atoms[{1: "H", 6: "C"}[z]] for z in methane.z.tolist())
    assert atomisation / HA == pytest.approx(-0.631066, abs=1e-6)


def test_qm9_leaves_out_what_fell_apart(qm9):
    assert qm9().store["gdb_id"].tolist() == [1, 880, 33459]  # only their neighbours are in the list
    assert qm9(fell_apart=[880]).store["gdb_id"].tolist() == [1, 33459]
    assert qm9(fell_apart=[880], remove_uncharacterized=False).store["gdb_id"].tolist() == [1, 880, 33459]


@pytest.mark.parametrize(
    ("target", "carbon"), [("G", -37.861317 * HA), ("Cv", 2.981 * CV), ("zpve", 0.0), ("gap", None), ("mu", None)]
)
def test_qm9_targets(qm9, target, carbon):
    data = qm9(target=target)
    wanted = [properties(number)[target] * INSIDE.get(target, HA) for number in (1, 880, 33459)]
    assert data.molecules.batch(range(3)).energy.tolist() == pytest.approx(wanted)
    assert data.reference_energies.get("C") == (None if carbon is None else pytest.approx(carbon))


def saved(content):
    """qm9_v3.zip of PyG, with this in it."""
    inner, outer = io.BytesIO(), io.BytesIO()
    torch.save(content, inner)
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("qm9_v3.pt", inner.getvalue())
    return {"qm9_v3.zip": outer.getvalue()}


def test_qm9_of_pyg_agrees_with_the_raw_files(qm9):
    raw = qm9().molecules
    molecules = []
    for k, number in enumerate((1, 880, 33459)):
        value = properties(number)
        y = [value[name] * (1 if name in INSIDE else 27.211386246) for name in NAMES[3:]]  # as PyG converts
        labels = {"y": torch.tensor([y + 7 * [0.0]]), "name": f"gdb_{number}", "idx": number - 1}
        molecules.append({"z": raw[k].z, "pos": raw[k].pos.float(), **labels})
    data = qm9(saved(molecules), source="pyg", target="H")
    assert data.store["gdb_id"].tolist() == [1, 880, 33459]
    for k in range(3):
        assert torch.equal(data.molecules[k].z, raw[k].z)
        for name in ("pos", *NAMES[3:]):
            torch.testing.assert_close(data.molecules[k][name], raw[k][name], rtol=1e-6, atol=1e-6)
        assert data.molecules[k].energy == data.molecules[k].H
    assert data.reference_energies["O"] == pytest.approx(-75.062219 * HA)


def test_a_pickle_in_the_file_of_pyg_does_not_run(qm9, tmp_path):
    class Touch:
        def __reduce__(self):
            return open, (str(tmp_path / "touched"), "w")

    with pytest.raises(InputError, match="qm9_v3.zip cannot be read"):
        qm9(saved([{"z": Touch()}]), source="pyg")
    assert not (tmp_path / "touched").exists() and nothing_cached(tmp_path)


def test_the_energy_of_qm9_has_a_unit(qm9):
    assert qm9().store.metadata["fields"]["energy"]["unit"] == "eV"


def one_molecule(text, end=None):
    return {"dsgdb9nsd.xyz.tar.bz2": tar_bytes({"dsgdb9nsd_000001.xyz": text.encode()}, "w:bz2")[:end]}


NO_QM9 = "molecule 1 of .* is not in the format of QM9"


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ({}, {"target": "u0"}, "QM9 has no property 'u0'; it has A, B, C, mu"),
        ({}, {"target": "A", "source": "pyg"}, "QM9 has no property 'A'; it has mu"),
        (one_molecule(METHANE, 99), {}, "tar.bz2 is damaged"),
        (one_molecule(METHANE[:300]), {}, NO_QM9),
        (one_molecule(METHANE.replace("C\t-", "Q\t-")), {}, NO_QM9),
        (one_molecule(METHANE.replace("6.469", "")), {}, NO_QM9),
        ({"uncharacterized.txt": b"1 C C C 0.1\n2 N N N 0.1\n"}, {}, "lists 2 molecules instead of 3054"),
        ({"atomref.txt": REFERENCES.replace("F ", "X ").encode()}, {}, "no table of atom references"),
        ({"qm9_v3.zip": b"PK\x03\x04"}, {"source": "pyg"}, "qm9_v3.zip cannot be read"),
        ({"atomref.txt": REFERENCES.replace("       2.981", "").encode()}, {}, "atomref"),
        ({"dsgdb9nsd.xyz.tar.bz2": tar_bytes({"a.txt": b""}, "w:bz2")}, {}, "no molecules|tar.bz2"),
        (saved([]), {"source": "pyg"}, "no molecules|qm9_v3.zip"),
        (saved([{"a": 1}]), {"source": "pyg"}, "qm9_v3.zip"),
    ],
)
def test_bad_files_of_qm9(qm9, tmp_path, files, settings, message):
    with pytest.raises(InputError, match=message):
        qm9(files, **settings)
    assert nothing_cached(tmp_path)


# --- ISO17, QM7-X, ANI-1, rMD17


@needs_shared
def test_real_rows_of_iso17(read):
    folder = SHARED / "iso17_sample"
    batch = read(folder / "test_iso.db", keys={"energy": "total_energy", "forces": "atomic_forces"}).molecules.batch
    with np.load(folder / "iso17_sample.npz") as file:
        assert np.array_equal(batch(range(40)).z.view(40, 19), file["Z"])
        np.testing.assert_allclose(batch(range(40)).pos.view(40, 19, 3), file["R"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(batch(range(40)).energy, file["E_eV"], rtol=1e-14)
        assert not batch(range(40)).forces.any() and not file["F_eV_A"].any()


@pytest.fixture
def iso17(tmp_path):
    """The folder of ISO17 with six rows a database: the energy tells database and row."""
    (tmp_path / "iso17").mkdir()
    for k, name in enumerate(("reference", "test_within", "test_other", "reference_eq", "test_eq")):
        with ase.db.connect(tmp_path / "iso17" / f"{name}.db") as database:
            for row in range(1, 7):
                atoms = molecule("H2O")
                atoms.rattle(0.02, seed=row)
                database.write(atoms, total_energy=-100.0 * k - row, data={"atomic_forces": np.full((3, 3), 0.1 * row)})
    (tmp_path / "iso17" / "train_ids.txt").write_text("1\n3\n4\n")
    (tmp_path / "iso17" / "validation_ids.txt").write_text("2\n6\n")
    return {"kind": ISO17, "root": str(tmp_path), "train": None, "val": None}


@pytest.mark.parametrize(("unknown", "test"), [(True, 200), (False, 100)])
@pytest.mark.parametrize("packed", [False, True])
def test_iso17(read, iso17, tmp_path, unknown, test, packed):
    if packed:
        members = {f"iso17/{path.name}": path.read_bytes() for path in (tmp_path / "iso17").iterdir()}
        (tmp_path / "iso17.tar.gz").write_bytes(tar_bytes(members, "w:gz"))
        for path in (tmp_path / "iso17").iterdir():
            path.unlink()
    data = read(**iso17, unknown=unknown)
    assert energies(data, "train") == [-4, -3, -1] and energies(data, "val") == [-6, -2]
    assert energies(data, "test") == [-test - row for row in (6, 5, 4, 3, 2, 1)]
    assert torch.equal(data.molecules[3].forces, torch.full((3, 3), 0.4, dtype=torch.float64))


def test_iso17_equilibrium(read, iso17):
    data = read(**(iso17 | {"val": 2}), equilibrium=True)
    assert sorted(energies(data, "train") + energies(data, "val")) == [-300 - row for row in (6, 5, 4, 3, 2, 1)]
    assert len(data.split["val"]) == 2 and energies(data, "test") == [-400 - row for row in (6, 5, 4, 3, 2, 1)]


@pytest.mark.parametrize(
    ("ids", "message"),
    [("0 1 3", "-1"), ("1 99", "98"), ("2 3", "train.*validation"), ("1 b", "train_ids.txt")],
)
def test_bad_ids_of_iso17(read, iso17, tmp_path, ids, message):
    (tmp_path / "iso17" / "train_ids.txt").write_text(ids)
    with pytest.raises(InputError, match=message):
        read(**iso17)


@pytest.mark.parametrize(("end", "more"), [(-3000, b""), (-8, bytes(8))])
def test_a_damaged_archive_of_iso17_is_not_used(read, iso17, tmp_path, end, more):
    names = ("train_ids.txt", "validation_ids.txt", "reference.db", "test_other.db")
    members = {f"iso17/{name}": (tmp_path / "iso17" / name).read_bytes() for name in names}
    members["iso17/test_other.db"] += np.random.default_rng(0).bytes(10_000)
    (tmp_path / "iso17.tar.gz").write_bytes(tar_bytes(members, "w:gz")[:end] + more)
    for path in (tmp_path / "iso17").iterdir():
        path.unlink()
    for _ in range(2):
        with pytest.raises(InputError, match="iso17.tar.gz is damaged"):
            read(**iso17)


@pytest.mark.parametrize("rest", [(1,), ()])
def test_qm7x(read, tmp_path, rest):
    """Groups f[molecule][conformer], and sets of the split that share no molecules."""
    with h5py.File(tmp_path / "1000.hdf5", "w") as file:
        for number, name in enumerate(("H2O", "CH4", "NH3", "C2H4", "H2CO", "CH3OH"), 1):
            for step in range(3):
                atoms = molecule(name)
                group = file.create_group(f"{number}/Geom-m{number}-i1-c1-{step}")
                group["atNUM"], group["atXYZ"] = atoms.numbers, atoms.positions + 0.01 * step
                group["ePBE0+MBD"], group["totFOR"] = np.array([-10.0 * number - step]), 0.1 * atoms.positions
                group["vDIP"], group["hRAT"] = np.array([0.1, 0.2, 0.3 * number]), np.ones((len(atoms), 1))
                group["hCHG"] = np.full((len(atoms), *rest), 0.01 * number)
    data = read(tmp_path / "1000.hdf5", QM7X, group_by="group", train=3, val=1)
    assert data.store["energy"].tolist() == [-10.0 * number - step for number in range(1, 7) for step in range(3)]
    item, atoms = data.molecules[13], molecule("H2CO")
    assert torch.equal(item.pos, torch.from_numpy(atoms.positions + 0.01))
    assert torch.equal(item.forces, torch.from_numpy(0.1 * atoms.positions))
    assert item.dipole[0].tolist() == pytest.approx([0.1, 0.2, 1.5]) and item.charges.tolist() == [0.05] * 4
    sets = [{-energy // 10 for energy in energies(data, part)} for part in ("train", "val", "test")]
    assert [len(one) for one in sets] == [3, 1, 2] and len(set.union(*sets)) == 6


@needs_shared
def test_real_qm7x(read):
    path = SHARED / "qm7x_sample/qm7x_mol226_100.npz"
    batch = read(path, QM7X).molecules.batch(range(100))
    with np.load(path) as file:
        assert np.array_equal(batch.energy, file["ePBE0+MBD"][:, 0]) and np.array_equal(batch.dipole, file["vDIP"])
        assert np.array_equal(batch.charges.view(100, 18, 1), file["hCHG"])
    assert batch.charges.view(100, 18).sum(1).abs().max() < 1e-3  # neutral
    assert batch.forces.view(100, 18, 3).sum(1).abs().max() < 1e-3 < batch.forces.abs().mean()


@needs_shared
def test_real_ani1(read):
    data = read(SHARED / "ani1_s01/ani_gdb_s01.h5", ANI1, group_by="group", train=1, val=1)
    sizes, words = np.diff(data.store["ptr"]), data.store.metadata["words"]["group"]
    assert words == [f"gdb11_s01/gdb11_s01-{k}" for k in range(3)]
    assert np.array_equal(np.unique(sizes, return_counts=True), [[3, 4, 5], [1800, 3600, 5400]])  # H2O, NH3, CH4
    assert np.array_equal(5 - data.store["words.group"], sizes)
    for size, heavy, low, high in ((5, "C", -19, -17), (4, "N", -13.5, -12), (3, "O", -10.5, -9)):
        lowest = data.store["energy"][sizes == size].min()
        atomisation = lowest - data.reference_energies[heavy] - (size - 1) * data.reference_energies["H"]
        assert low < atomisation < high
    assert data.reference_energies["C"] == pytest.approx(ANI1_ATOMS["C"] * HA)


def test_ani1_species_are_bytes(read, tmp_path):
    atoms = molecule("CH3OH")
    frames = np.stack([atoms.positions + 0.01 * k for k in range(4)]).astype(np.float32)
    with h5py.File(tmp_path / "ani_gdb_s02.h5", "w") as file:
        group = file.create_group("gdb11_s02/gdb11_s02-7")
        group["coordinates"], group["energies"] = frames, -115.6 - np.arange(4.0)
        group["coordinatesHE"], group["energiesHE"] = frames[:0], np.zeros(0)
        group["species"], group["smiles"] = np.array(list("COHHHH"), "S1"), np.array(list("CO"), "S1")
    item = read(tmp_path / "ani_gdb_s02.h5", ANI1).molecules[2]
    assert item.z.tolist() == [6, 8, 1, 1, 1, 1] and torch.equal(item.pos, torch.from_numpy(frames[2]).double())
    assert item.energy.item() == pytest.approx(-117.6 * HA)


def rmd17(tmp_path, name="ethanol", end=None, more=()):
    atoms = molecule("CH3CH2OH")
    coords = np.stack([atoms.positions + 0.01 * k for k in range(20)])
    arrays = {"nuclear_charges": atoms.numbers.astype(np.uint8), "coords": coords, "forces": 10 * coords}
    arrays |= {"energies": -97000.0 - np.arange(20.0), "old_energies": -97500.0 - np.arange(20), "old_forces": coords}
    members = {"rmd17/readme.txt": b"read me", f"rmd17/npz_data/rmd17_{name}.npz": npz_bytes(**arrays)}
    rows = {"index_train_01.csv": b"1\n3\n5\n7\n", "index_test_01.csv": b"2\n4\n", "index_train_02.csv": b"3\n4\n"}
    members |= {f"rmd17/splits/{name}": content for name, content in rows.items()}
    (tmp_path / "rmd17").mkdir()
    (tmp_path / "rmd17" / "rmd17.tar.bz2").write_bytes(tar_bytes(members | dict(more), "w:bz2")[:end])
    rows = {"train": 3, "val": 1, "train_rows": "train_01", "test_rows": "test_01"}
    return {"kind": MD17, "molecule": "ethanol", "revised": True, "root": str(tmp_path), **rows}


def test_archive_of_rmd17(read, tmp_path):
    settings = rmd17(tmp_path)
    data = read(**settings)
    used = energies(data, "train") + energies(data, "val")
    assert sorted(used) == pytest.approx([(-97000 - k) * KCAL for k in (7, 5, 3, 1)])
    assert energies(data, "test") == pytest.approx([(-97000 - k) * KCAL for k in (4, 2)])
    (tmp_path / "rmd17" / "rmd17.tar.bz2").unlink()  # no longer needed
    data = read(**settings, layout="rmd17_old")
    assert energies(data, "test") == pytest.approx([(-97500 - k) * KCAL for k in (4, 2)])
    item = data.molecules[5]
    torch.testing.assert_close(item.forces, item.pos * KCAL, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"name": "toluene"}, {}, "has no molecule ethanol"),
        ({"end": 200}, {}, "rmd17.tar.bz2 is damaged"),
        ({}, {"test_rows": "train_02"}, "1 molecules are both in train_01 and in train_02"),
        ({}, {"molecule": "benzene2018"}, "no molecule 'benzene2018'"),
        ({"more": {"rmd17/npz_data/rmd17_ethanol.npz": b"PK\x03\x04"}}, {}, "tar.bz2"),
        ({"more": {"rmd17/splits/index_train_01.csv": b"index\n1\n"}}, {}, "tar.bz2"),
    ],
)
def test_bad_archives_of_rmd17(read, tmp_path, changes, settings, message):
    with pytest.raises(InputError, match=message):
        read(**(rmd17(tmp_path, **changes) | settings))
    assert settings or (nothing_cached(tmp_path) and not (tmp_path / "rmd17" / "rmd17_ethanol.npz").exists())


# --- own files

FIELDS = {"pos": ("R", BOHR), "energy": ("E", HA), "forces": ("F", HA / BOHR), "dipole": ("D", DEBYE)}
FIELDS |= {"charges": ("q", 1.0), "gap": ("g", KCAL)}
KEYS = {name: FIELDS[name][0] for name in ("energy", "forces", "dipole", "charges", "gap")}
UNITS = {"energy": "Ha", "pos": "Bohr", "dipole": "Debye", "gap": "kcal/mol"}


def labelled(*names, **values):
    """Molecules as a file in Ha, Bohr, Debye and kcal/mol has them, with no more digits than xyz files keep."""
    rng, several = np.random.default_rng(0), []
    for atoms in map(molecule, names):
        one = {"R": atoms.positions / BOHR + rng.normal(scale=0.03, size=(len(atoms), 3)), "E": -rng.random()}
        one |= {"F": rng.normal(scale=0.02, size=(len(atoms), 3)), "D": rng.normal(size=3), "g": rng.random()}
        one |= {"q": rng.normal(size=len(atoms)), **values}
        several.append({"z": atoms.numbers} | {key: np.array(value).round(6) for key, value in one.items()})
    return several


def frames(path, several):
    np.savez(path, **{key: np.stack([one[key] for one in several]) for key in "REFDqg"}, z=several[0]["z"])


def flat(path, several):
    arrays = {key: (np.concatenate if key in "zRFq" else np.stack)([one[key] for one in several]) for key in several[0]}
    np.savez(path, **arrays, n_atoms=[len(one["z"]) for one in several])


def padded(path, several, rubbish=0, **more):
    def fill(key, value):
        room = [(0, 6 - len(value)), (0, 0)][: value.ndim] if key in "zRFq" else 0
        return np.pad(value, room, constant_values=rubbish) if room else value

    np.savez(path, **{key: np.stack([fill(key, one[key]) for one in several]) for key in several[0]}, **more)


def padded_and_counted(path, several):
    padded(path, several, 7, N=[len(one["z"]) for one in several])


def extxyz(path, several):
    images = [Atoms(one["z"], one["R"], info={key: one[key] for key in "EDg"}) for one in several]
    for atoms, one in zip(images, several, strict=True):
        atoms.arrays |= {key: one[key] for key in "Fq"}
    with open(path, "w") as file:
        ase.io.write(file, images, format="extxyz")


def database(path, several):
    with ase.db.connect(path) as file:
        for one in several:
            file.write(Atoms(one["z"], one["R"]), E=float(one["E"]), g=float(one["g"]), data={k: one[k] for k in "FDq"})


def groups(path, several):
    with h5py.File(path, "w") as file:
        for k, one in enumerate(several):
            for key, value in one.items():
                file[f"all/{k}/{key}"] = value if key == "z" else value[None]


@pytest.mark.parametrize(
    ("write", "name"),
    [
        *((write, "x.npz") for write in (frames, flat, padded, padded_and_counted)),
        *((extxyz, "x.xyz"), (extxyz, "x.extxyz"), (database, "x.db"), (groups, "x.h5")),
        (extxyz, "x@300K.xyz"),
    ],
)
def test_every_layout_gives_the_same_molecules(read, tmp_path, write, name):
    several = labelled(*(["H2CO"] * 4 if write is frames else ["H2CO", "CH4", "H2O", "H2CO"]))
    write(tmp_path / name, several)
    for without in ([], ["forces", "charges"]):
        data = read(tmp_path / name, keys=KEYS | dict.fromkeys(without), units=UNITS)
        assert len(data.molecules) == 4 and not {*without} & {*data.molecules[0].keys()}
        for item, one in zip((data.molecules[k] for k in range(4)), several, strict=True):
            assert item.z.tolist() == one["z"].tolist()
            for field in FIELDS.keys() - without:
                key, factor = FIELDS[field]
                wanted = torch.from_numpy(one[key][None] if key in "EDg" else one[key]) * factor
                torch.testing.assert_close(item[field], wanted, rtol=1e-6, atol=1e-8)
        assert data.store.metadata["fields"]["gap"] == {"per": "molecule", "unit": "eV"}


def water(k=0, config_type="none", **results):
    atoms = molecule("H2O")
    atoms.rattle(0.02, seed=k)
    atoms.calc = SinglePointCalculator(atoms, energy=-10.0 - k, forces=0.1 * atoms.positions, **results)
    atoms.info["config_type"] = config_type
    return atoms


def single(symbol="H", energy=-13.6, **settings):
    atoms = Atoms(symbol, **settings)
    atoms.calc = SinglePointCalculator(atoms, **({} if energy is None else {"energy": energy}))
    return atoms


def silicon(k=0, **results):
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.02, seed=k)
    atoms.calc = SinglePointCalculator(atoms, energy=-40.0 - k, forces=np.zeros((8, 3)), **results)
    return atoms


def write_all(folder, files):
    for name, several in files.items():
        ase.io.write(folder / name, several, format="extxyz")
    return [folder / name for name in files]


WATER = [water(k) for k in range(6)]
ATOMS = [single("O", -2040.0), single("H", -13.6), single("H", -13.5)]


@pytest.mark.parametrize(
    "files",
    [
        {"a.xyz": ATOMS + WATER},
        {"a.xyz": WATER[:3] + ATOMS + WATER[3:]},
        {"a.xyz": WATER + ATOMS},
        {"atoms.xyz": ATOMS, "a.xyz": WATER},
        {"a.xyz": WATER, "atoms.xyz": ATOMS},
        {"a.xyz": WATER[:3], "atoms.xyz": [single("O", -2040.0, cell=[9, 9, 9])], "b.xyz": WATER[3:] + ATOMS[1:]},
        {"a.xyz": [water(k, charges=[0.1, 0.2, 0.3]) for k in range(6)] + ATOMS},
        {"a.xyz": [*WATER, *WATER[:1] * 994, *ATOMS]},
    ],
)
def test_isolated_atoms(read, tmp_path, files):
    data = read(write_all(tmp_path, files), train=3)
    assert data.reference_energies == {"O": -2040.0, "H": -13.6}
    drawn = torch.cat([data.split[name] for name in ("train", "val", "test")])
    wanted = sorted(atoms.get_potential_energy() for several in files.values() for atoms in several if len(atoms) > 1)
    assert sorted(data.molecules.batch(drawn).energy.tolist()) == wanted
    batch = data.molecules.batch(drawn[:6])
    torch.testing.assert_close(batch.forces, 0.1 * batch.pos, rtol=0, atol=1e-8)
    sizes = np.diff(data.store["ptr"])
    assert not data.store["forces"][sizes.repeat(sizes) == 1].any()


@pytest.mark.parametrize("units", [None, {"gap": "Ha"}])
def test_isolated_atoms_with_named_keys(read, tmp_path, units):
    for atoms in (several := [water(), water(1), single()]):
        results, atoms.calc = atoms.calc.results, None
        atoms.info |= {"REF_E": results["energy"], **({"g": 1.0} if len(atoms) > 1 and units else {})}
        atoms.arrays |= {"REF_F": results["forces"]} if "forces" in results else {}
    keys = {"energy": "REF_E", "forces": "REF_F", **({"gap": "g"} if units else {})}
    for files in ({"a.xyz": several[:2], "atoms.xyz": several[2:]}, {"atoms.xyz": several[2:], "a.xyz": several[:2]}):
        data = read(write_all(tmp_path, files), keys=keys, units=units)
        assert data.reference_energies == {"H": -13.6} and energies(data, "test") + energies(data, "train")


@pytest.mark.parametrize(
    "files",
    [{"a.xyz": [*WATER, single(energy=None)]}, {"a.xyz": WATER, "b.xyz": single(energy=None)}],
)
def test_an_isolated_atom_without_energy_is_no_reference(read, tmp_path, files):
    with pytest.raises(InputError, match="energy"):
        read(write_all(tmp_path, files))


def test_isolated_atoms_among_crystals(read, tmp_path):
    data = read(write_all(tmp_path, {"a.xyz": [silicon(0), silicon(1), single("Si", -0.8)]}))
    assert data.reference_energies == {"Si": -0.8} and len(data.split["train"]) + len(data.split["test"]) == 2


def test_cells_of_one_atom_are_crystals(read, tmp_path):
    several = [bulk("Cu") * (2 - k % 2, 1, 1) for k in range(6)]
    for atoms in several:
        atoms.calc = SinglePointCalculator(atoms, energy=-4.0 * len(atoms))
    data = read(write_all(tmp_path, {"a.xyz": several}), train=3)
    assert sum(len(rows) for rows in data.split.values()) == 6 and not data.reference_energies


def test_files_and_words_name_sets(read, tmp_path):
    several = [water(k, config_type="hot" if k > 3 else "cold") for k in range(6)]
    paths = write_all(tmp_path, {"a.xyz": several[:5], "b.xyz": several[5:]})
    data = read(paths, train=None, val=1, train_rows="a", test_rows="b")
    assert energies(data, "test") == [-15.0] and len(data.split["train"]) == 4 and len(data.split["val"]) == 1
    data = read(paths, words=["config_type"], train=None, train_rows="config_type=cold", test_rows="hot")
    assert energies(data, "train") == [-13.0, -12.0, -11.0, -10.0] and energies(data, "test") == [-15.0, -14.0]


def test_isolated_atoms_in_a_file_for_training(read, tmp_path):
    paths = write_all(tmp_path, {"a.xyz": ATOMS + WATER[:3], "b.xyz": WATER[3:]})
    assert energies(read(paths, train=None, train_rows="a", test_rows="b"), "train") == [-12.0, -11.0, -10.0]


def test_words_that_only_one_file_has(read, tmp_path):
    frames(tmp_path / "a.npz", labelled(*["H2O"] * 3, E=100.0))
    groups(tmp_path / "b.h5", labelled(*["H2O"] * 4, E=200.0))
    for names in (["a.npz", "b.h5"], ["b.h5", "a.npz"]):
        data = read([tmp_path / name for name in names], units={"pos": "Bohr"}, train=None, train_rows="all/2")
        assert energies(data, "train") == [200.0] and len(data.store["words.group"]) == 7


STRESS = np.array([[1.0, 4.0, 5.0], [4.0, 2.0, 6.0], [5.0, 6.0, 3.0]]) / 100
VOIGT = STRESS[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]  # xx yy zz yz xz xy


@pytest.mark.parametrize("suffix", ["xyz", "db", "npz", "h5"])
@pytest.mark.parametrize(("unit", "factor"), [("eV/Å^3", 1.0), ("GPa", GPA)])
def test_stress_in_the_order_of_voigt(read, tmp_path, suffix, unit, factor):
    atoms, path = silicon(stress=VOIGT), tmp_path / f"x.{suffix}"
    assert np.array_equal(atoms.get_stress(voigt=False), STRESS)
    if suffix == "npz":
        np.savez(path, z=atoms.numbers, R=[atoms.positions], cell=atoms.cell.array, stress=[VOIGT])
    elif suffix == "h5":
        path.write_bytes(hdf5_bytes(z=atoms.numbers, R=atoms.positions, cell=atoms.cell.array, stress=VOIGT))
    else:
        ase.io.write(path, atoms, format={"xyz": "extxyz"}.get(suffix, suffix))
    item = read(path, units={"stress": unit}).molecules[0]
    np.testing.assert_allclose(item.stress[0], STRESS * factor, rtol=1e-6)
    assert np.array_equal(item.cell[0], atoms.cell.array) and item.pbc.all()


@pytest.mark.parametrize("others", [[], [single("Si", -0.8)]])
def test_virials_become_stresses(read, tmp_path, others):
    several = [silicon(k) for k in range(3)]
    for k, atoms in enumerate(several):
        atoms.set_cell(atoms.cell / BOHR, scale_atoms=True)
        atoms.info["virial"] = -(k + 1) * STRESS * 100 / HA
    data = read(write_all(tmp_path, {"a.xyz": several + others}), units={"energy": "Ha", "pos": "Bohr"})
    for k in range(3):
        np.testing.assert_allclose(data.molecules[k].cell[0], np.eye(3) * 5.43, rtol=1e-6)
        np.testing.assert_allclose(data.molecules[k].stress[0], (k + 1) * STRESS * 100 / 5.43**3, rtol=1e-6)
    assert np.isfinite(data.store["stress"]).all()


def test_mixed_boundaries(read, tmp_path):
    several = [water(k) for k in range(4)]
    for k, pbc in ((1, [True, False, True]), (3, [True] * 3)):
        several[k].set_cell([[3.0, 0, 0], [0.5, 3.5, 0], [0, 1, 4]])
        several[k].pbc = pbc
    data = read(write_all(tmp_path, {"a.xyz": several}))
    for k, atoms in enumerate(several):
        item = data.molecules[k]
        assert item.pbc[0].tolist() == atoms.pbc.tolist() and item.cell[0].tolist() == atoms.cell.tolist()
        assert item.edge_shift.abs().amax(0).bool().tolist() == atoms.pbc.tolist()
    assert "cell" not in read(write_all(tmp_path, {"b.xyz": several[::2]})).molecules[0]
    np.savez(tmp_path / "slab.npz", **GOOD, cell=np.diag([9.0, 8.0, 0.0]))
    assert read(tmp_path / "slab.npz").molecules[0].pbc.tolist() == [[True, True, False]]


@pytest.mark.parametrize("write", [frames, extxyz])
def test_a_vector_for_each_structure_of_three_atoms(read, tmp_path, write):
    path = tmp_path / {frames: "x.npz", extxyz: "x.xyz"}[write]
    write(path, labelled("H2O", "H2O"))
    data = read(path, keys={"vector": "D", "dipole": None}, units={"pos": "Bohr"})
    assert data.store.metadata["fields"]["vector"]["per"] == "molecule"


@pytest.mark.parametrize("kind", ["arrays", "magmoms", "data"])
@pytest.mark.parametrize("names", [["CH4", "H2O"], ["CH4", "CH4"]])
def test_numbers_for_each_atom(read, tmp_path, kind, names):
    several = [molecule(name) for name in names]
    for atoms in several:
        own = {"magmoms": 1.0 * atoms.numbers} if kind == "magmoms" else {}
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, **own)
        atoms.arrays |= {"own": 1.0 * atoms.numbers} if kind == "arrays" else {}
    with ase.db.connect(tmp_path / "x.db") as file:
        for atoms in several if kind == "data" else []:
            file.write(atoms, data={"own": 1.0 * atoms.numbers})
    (path,) = write_all(tmp_path, {"x.xyz": several})
    path = tmp_path / "x.db" if kind == "data" else path
    data = read(path, keys={"own": "magmoms" if kind == "magmoms" else "own"})
    assert np.array_equal(data.store["own"], data.store["z"])


def test_damaged_files_of_the_cache(read, tmp_path):
    (path,) = write_all(tmp_path, {"a.xyz": WATER[:3]})
    store = read(path).store
    converted = store.path.read_bytes()
    for damaged in (converted[:-50], converted[:20], b""):
        store.path.write_bytes(damaged)
        assert read(path).store.path.read_bytes() == converted
    store.path.write_bytes(converted[:-1] + bytes([converted[-1] ^ 1]))
    with pytest.raises(InputError, match="z of .* have changed since they were written"):
        read(path).store.verify()


# --- real data


def real(name):
    return SHARED / name


@needs_shared
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("h2co_dipole/h2co_B3LYP_cc-pVDZ_4001.npz", {"energy": "E", "forces": "F", "dipole": "D", "charge": "Q"}),
        ("pbc_deepmd_water/water192_400.npz", {"energy": "E_eV", "forces": "F_eV_A", "cell": "cell"}),
        ("pbc_mlearn/Si_test.npz", {"energy": "E_eV", "forces": "F_eV_A", "cell": "cell"}),
        ("pbc_mlearn/Mo_training.npz", {"energy": "E_eV", "forces": "F_eV_A", "cell": "cell"}),
        ("pbc_mlearn/Li_test.npz", {"energy": "E_eV", "cell": "cell"}),
        ("qm7x_sample/qm7x_2500.npz", {"energy": "E_eV", "forces": "F_eV_A"}),
        ("iso17_sample/iso17_sample.npz", {"energy": "E_eV"}),
        ("qm9_samples/qm9_first500_U0.npz", {"energy": "U0_eV"}),
    ],
)
def test_real_arrays_without_suspicions(read, name, keys):
    """All numbers as they stand in the file, and no warning."""
    data = read(real(name), keys=({"energy": "U0_eV"} if "U0" in name else {}))
    with np.load(real(name)) as file:
        sizes = file["n_atoms"] if "n_atoms" in file else np.full(len(file["R"]), file["Z"].shape[-1])
        assert np.array_equal(data.store["ptr"], [0, *np.cumsum(sizes, dtype=int)])
        assert np.array_equal(data.store["z"], np.broadcast_to(file["Z"], file["R"].shape[:-1]).ravel())
        for field, key in (keys | {"pos": "R"}).items():
            assert np.array_equal(data.store[field].ravel(), file[key].ravel()), field
    assert ("cell" in keys) == ("pbc" in data.store) and data.store.get("pbc", np.ones(1)).all()


@needs_shared
@pytest.mark.parametrize(
    ("kind", "names", "settings"),
    [
        (MD17, ["md17/aspirin.npz"], {}),
        (MD17, ["md17/ethanol.npz"], {"layout": "rmd17_old"}),
        (ANI1, ["ani1_s01/ani_gdb_s01.h5"], {}),
        (Files, ["qm9_samples/schnetpack_test_qm9.db"], {"keys": {"energy": "energy_U0"}, "units": {"energy": "Ha"}}),
        (Files, ["qm9_samples/SchNet2017_test_qm9_20.db"], {"keys": {"energy": "energy_U0"}}),
        (Files, ["qm9_eel/qm9_eel_dipole.npz"], {"keys": {"energy": "E_hartree"}, "units": {"energy": "Ha"}}),
        (Files, ["botnet/dataset_3BPA/train_mixedT.xyz", "botnet/dataset_3BPA/iso_atoms.xyz"], {}),
        (Files, ["botnet/dataset_ethanol/train.xyz", "botnet/dataset_ethanol/isolated_atoms.xyz"], {}),
    ],
)
def test_real_files_without_suspicions(read, kind, names, settings):
    data = read([real(name) for name in names] if len(names) > 1 else real(names[0]), kind, **settings)
    if len(names) > 1:
        wanted = {str(atoms.symbols): atoms.get_potential_energy() for atoms in ase.io.iread(real(names[1]), ":")}
        assert data.reference_energies == wanted and len(wanted) >= 3


@needs_shared
def test_real_stresses(read):
    for name in ("gst_Ge18Sb18Te45_200", "carbon_reduced_100"):
        images = ase.io.read(real(f"pbc_misc/{name}.xyz"), ":30")
        data = read(real(f"pbc_misc/{name}.xyz"))
        for k, atoms in enumerate(images):
            virial = atoms.info.get("virial")
            wanted = atoms.get_stress(voigt=False) if virial is None else -virial / atoms.get_volume()
            np.testing.assert_allclose(data.molecules[k].stress[0], wanted, rtol=1e-12)
            assert data.molecules[k].energy.item() == atoms.get_potential_energy()
            forces = atoms.get_forces() if virial is None else atoms.arrays["force"]
            assert np.array_equal(data.molecules[k].forces, forces)


@needs_shared
def test_real_dipoles_point_from_oxygen_to_carbon(read):
    batch = read(real("h2co_dipole/h2co_B3LYP_cc-pVDZ_4001.npz")).molecules.batch(range(4001))
    axis = batch.pos.view(-1, 4, 3)[:, 0] - batch.pos.view(-1, 4, 3)[:, 1]
    assert (torch.cosine_similarity(axis, batch.dipole) > 0.9).all() and not batch.charge.any()


@needs_shared
def test_real_forces_are_slopes(read):
    data = read(real("md17_ethanol_first2000/md17_ethanol_first2000.npz"), MD17)
    work, energy = work_and_energy(data.molecules)
    assert len(work) == 1999 and work @ energy / (work @ work) == pytest.approx(1, abs=0.01)


@needs_shared
@pytest.mark.parametrize(
    ("sign", "units", "slip"),
    [
        (1, ("eV",), "perhaps kcal/mol given as eV"),
        (1, ("Ha",), "perhaps kcal/mol given as Ha"),
        (1, ("kJ/mol",), "perhaps kcal/mol given as kJ/mol"),
        (1, ("kcal/mol", "Bohr"), "perhaps Å given as Bohr"),
        (1, ("kcal/mol", "nm"), "no two atoms are closer than 4 Å"),
        (1, ("kcal/mol", "Å", "eV/Å"), "energies in eV with forces in kcal/mol/Å"),
        (1, ("eV", "Å", "kcal/mol/Å"), "energies in kcal/mol with forces in eV/Å"),
        (1, ("kcal/mol", "Å", "kcal/mol/Bohr"), "changes by 0.53.. times the work of the forces"),
        (-1, ("kcal/mol",), "they are gradients, of the opposite sign"),
    ],
)
def test_slips_are_named(read, tmp_path, sign, units, slip):
    with np.load(real("md17_ethanol_first2000/md17_ethanol_first2000.npz")) as file:
        arrays = {key: file[key][:300] for key in file.files}
    arrays["F"] *= sign
    np.savez(tmp_path / "slip.npz", **arrays)
    with pytest.warns(UserWarning, match=".") as warned:
        data = read(tmp_path / "slip.npz", units=dict(zip(("energy", "pos", "forces"), units, strict=False)))
    assert re.search(slip, "\n".join(str(warning.message) for warning in warned))
    assert re.search(slip, "\n".join(data.store.metadata["suspicions"]))


# --- files that are wrong

GOOD = {"z": np.array([8, 1, 1]), "R": np.array([atoms.positions for atoms in WATER]), "E": -np.arange(10.0, 16)}
GOOD |= {"F": 0.1 * np.array([atoms.positions for atoms in WATER])}
FLAT = {"z": np.tile(GOOD["z"], 6), "R": GOOD["R"].reshape(18, 3), "F": None}


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"energy": np.zeros(6)}, {"keys": {"energy": "energi"}}, "no 'energi' for energy; did you mean 'energy'"),
        ({"R": None, "posit": GOOD["R"]}, {}, "has no pos; did you mean 'posit'.*keys: {pos"),
        ({"E": GOOD["E"].astype(np.float16)}, {}, "E of .* holds half-precision numbers"),
        ({"E": GOOD["E"] * 1j}, {}, "E of .* holds complex128, not numbers"),
        ({"E": np.array([{}] * 6)}, {}, "E of .* cannot be read: Object arrays"),
        ({"F": np.where(GOOD["F"] == GOOD["F"][4, 2, 1], np.nan, GOOD["F"])}, {}, r"F of .* first nan at \[4, 2, 1\]"),
        ({"z": np.array([8, 1, 0])}, {}, "z of .* holds 0…8: elements are 1 to 99"),
        ({"z": np.array([8, 1, 200])}, {}, "holds 1…200: elements"),
        ({"z": np.array([8, 1, 1.5])}, {}, "elements are 1 to 99"),
        ({"z": np.array(["O", "H", "Qq"])}, {}, "'Qq' are no elements"),
        ({"z": np.array([8, 1])}, {}, r"R of .* \[6, 3, 3\]; z of .* of \[2\] needs"),
        ({"R": GOOD["R"][..., :2]}, {}, r"R of .* \[6, 3, 2\]; \[frames, atoms, 3\]"),
        ({"F": GOOD["F"][:, :2]}, {}, r"F of .* \[6, 2, 3\]; 6 molecules of 18 atoms need \[6, 3, 3\]"),
        ({"E": GOOD["E"][:5]}, {}, r"E of .* \[5\]; 6 molecules of 18 atoms need \[6\]"),
        ({"charges": np.zeros((6, 2))}, {}, r"charges of .* \[6, 2\]; .* need \[6, 3\]"),
        ({"cell": np.zeros(3)}, {}, r"cell of .* need \[6, 3, 3\]"),
        ({"pbc": np.ones(3, bool)}, {}, "has pbc, but no cell"),
        ({"pbc": np.ones(3, bool), "cell": np.diag([5.0, 5, 0])}, {}, "cell"),
        (FLAT | {"N": np.full(6, 2)}, {}, "12 atoms together"),
        (FLAT | {"N": np.array([0, 6, 3, 3, 3, 3])}, {}, "18 atoms together.* above 0 each"),
        (FLAT | {"N": np.full(6, 3), "z": FLAT["z"][:17]}, {}, r"18 atoms, z of .* \[17\]"),
        ({"N": np.zeros(6, int)}, {}, "molecule 0 has no atoms"),
        ({"R": GOOD["R"] * [[[1], [0], [0]]]}, {}, "stand on the same spot"),
        ({}, {"units": {"energy": "mile"}}, "unknown unit 'mile'"),
        ({}, {"units": {"forces": "eV"}}, "'eV' is no unit of forces: give one like eV/Å"),
        ({}, {"units": {"force": "Ha/Bohr"}}, "force"),
        ({"E": None, "N": np.full(5, 3)}, {}, "N of"),
        ({"N": np.full(6, 5)}, {}, "N of"),
        (FLAT | {"N": np.zeros(0, int)}, {}, "N of"),
        ({"R": np.zeros((0, 3, 3)), "E": np.zeros(0), "F": None}, {}, "R of"),
    ],
)
def test_bad_arrays(read, tmp_path, changes, settings, message):
    np.savez(tmp_path / "x.npz", **{key: value for key, value in (GOOD | changes).items() if value is not None})
    with pytest.raises(InputError, match=message):
        read(tmp_path / "x.npz", **settings)
    assert nothing_cached(tmp_path)


def test_other_arrays_do_no_harm(read, tmp_path):
    other = {"notes": np.array(["a"] * 6), "objects": np.array([{}]), "F_eV_A": 2 * GOOD["F"]}
    np.savez(tmp_path / "x.npz", **other, **GOOD)  # F is the likelier name
    assert np.array_equal(read(tmp_path / "x.npz").store["forces"].reshape(6, 3, 3), GOOD["F"])


@pytest.mark.parametrize("member", ["notes.txt", "damaged.npy"])
def test_other_members_do_no_harm(read, tmp_path, member):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for key, array in GOOD.items():
            archive.writestr(f"{key}.npy", (buffer := io.BytesIO(), np.save(buffer, array))[0].getvalue())
        archive.writestr(member, b"notes or so")
    content = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(content.replace(b"notes or so", b"other notes") if ".npy" in member else content)
    assert np.array_equal(read(tmp_path / "x.npz").store["forces"].reshape(6, 3, 3), GOOD["F"])


@pytest.mark.parametrize(
    "change",
    [
        {key: array.astype(array.dtype.newbyteorder(">")) for key, array in GOOD.items()},
        GOOD | {"e_unit": np.bytes_("eV")},
    ],
)
def test_bytes_of_other_machines(read, tmp_path, change):
    np.savez(tmp_path / "x.npz", **change)
    data = read(tmp_path / "x.npz", MD17, energy_unit=None if "e_unit" in change else "eV")
    assert np.array_equal(data.store["forces"].reshape(6, 3, 3), GOOD["F"])


def test_files_of_both_precisions(read, tmp_path):
    np.savez(tmp_path / "a.npz", **{key: a.astype(np.float32) if key != "z" else a for key, a in GOOD.items()})
    np.savez(tmp_path / "b.npz", **GOOD)
    data = read([tmp_path / "a.npz", tmp_path / "b.npz"])
    assert np.array_equal(data.store["energy"], [*GOOD["E"], *GOOD["E"]])


def text(several):
    buffer = io.StringIO()
    ase.io.write(buffer, several, format="extxyz")
    return buffer.getvalue()


XYZ, RUBBISH = text(WATER), np.random.default_rng(0).bytes(5000)
NO_FORCES = text(WATER[:3]) + text(single("H")).replace("1\n", "2\n") + "O 1.0 0.0 0.0\n" + text(WATER[3:])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [(f"x.{suffix}", b"", r"x\." + suffix) for suffix in ("xyz", "extxyz", "npz", "h5", "hdf5", "traj", "safetensors")]
    + [(f"x.{suffix}", RUBBISH, r"x\." + suffix) for suffix in ("xyz", "npz", "h5", "db", "cif", "safetensors")]
    + [
        ("x.xyz", None, "there is no file"),
        ("x.xyz", XYZ[:-60], "x.xyz cannot be read"),
        ("x.xyz", XYZ.replace("Properties", "author=Müller Properties").encode("latin-1"), "x.xyz cannot be read"),
        ("x.xyz", XYZ.replace("O ", "Zz "), "x.xyz cannot be read .*Zz"),
        ("x.xyz", XYZ.replace("O ", "X "), "numbers of .*x.xyz .* holds 0…1: elements are 1 to 99"),
        ("x.xyz", XYZ.replace("energy=-13.0", "energy=nan"), "energy of .*x.xyz .* not finite"),
        ("x.xyz", XYZ.replace("energy=-13.0", ""), "structure 3 of .*x.xyz has no energy, others have"),
        ("x.xyz", NO_FORCES, "structure 3 of .*x.xyz has no forces, others have.* keys.forces to null"),
        ("x.npz", hdf5_bytes(**GOOD), "x.npz is not an npz file"),
        ("x.h5", npz_bytes(**GOOD), "x.h5 is not an HDF5 file"),
        ("x.db", npz_bytes(**GOOD), "x.db is not an ASE database"),
        ("x.npz", npz_bytes(**GOOD)[:-100], "x.npz is not an npz file, or is cut short"),
        ("x.h5", hdf5_bytes(**GOOD)[:3000], "x.h5 is not an HDF5 file, or is damaged"),
        ("x.h5", hdf5_bytes(E=GOOD["E"]), "no group of .*x.h5 holds elements and positions"),
        ("x.h5", hdf5_bytes(**GOOD | {"E": GOOD["E"][:4]}), r"E of .*x.h5, group /, has the shape \[4\]"),
        ("x.safetensors", save({"weight": np.zeros(3)}), "holds no molecules"),
        ("x.xyz", XYZ[: XYZ.rindex("H ") - 2], "x.xyz cannot be read"),
        ("x.traj", RUBBISH, "x.traj cannot be read"),
        ("x.npz", b"rubbish" + npz_bytes(**GOOD), "x.npz"),
    ],
)
def test_bad_files(read, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / name)
    assert nothing_cached(tmp_path)


def test_an_empty_database_stays_empty(read, tmp_path):
    (tmp_path / "x.db").write_bytes(b"")
    with pytest.raises(InputError, match="x.db"):
        read(tmp_path / "x.db")
    assert not (tmp_path / "x.db").read_bytes()


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"train": [0, 1, 2], "val": [2], "test": [3]}, "1 molecules, 2 first, are in the train and in the val set"),
        ({"train": [0, 1, 1], "val": [2], "test": [3]}, "the train set names 1 molecules twice"),
        ({"train": [0, 1], "val": [2], "test": [3, 9]}, "the test set names molecules 3 to 9"),
        ({"train": [0.0, 1.0], "val": [2], "test": [3]}, "train of .* must list row numbers; it holds float64"),
    ],
)
def test_bad_split_files(read, tmp_path, split, message):
    np.savez(tmp_path / "x.npz", **GOOD)
    np.savez(tmp_path / "split.npz", **split)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "x.npz", split_file=str(tmp_path / "split.npz"))


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("rows.txt", b"0 1 9", {"train": 3}, "are 0 to 9, there are 0 to 5"),
        ("rows.txt", b"0, 1, -2", {"train": 3}, "are -2 to 1, there are 0 to 5"),
        ("rows.txt", b"0 1 1", {"train": 3}, "the train set names 1 molecules twice"),
        ("rows.txt", npz_bytes(a=GOOD["E"]), {}, "rows.txt does not list row numbers"),
        ("rows.json", b"{}", {}, "rows.json must list row numbers"),
        ("rows.npy", b"", {}, "rows.npy does not list row numbers"),
        ("rows.txt", b"0 1 9", {"group_by": "composition"}, "are 0 to 9, there are 0 to 5"),
    ],
)
def test_bad_lists_of_rows(read, tmp_path, name, content, settings, message):
    np.savez(tmp_path / "x.npz", **GOOD)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "x.npz", train_rows=str(tmp_path / name), **settings)


def test_conversion_is_the_same_every_time(tmp_path):
    """The order of sets in Python differs from process to process; what is written must not."""
    water(0).write(tmp_path / "a.extxyz")
    np.savez(tmp_path / "b.npz", **{name: np.arange(2) for name in "stuvw"}, **frames_of_water())
    script = (
        "import sys, hashlib; from pathlib import Path; from pygschnet.datasets import Files\n"
        "for name, words in (('a.extxyz', ['config_type', 'file', 'x', 'y']), ('b.npz', [])):\n"
        "    Files(name, words=words).write(Path('out.safetensors'))\n"
        "    print(hashlib.sha256(Path('out.safetensors').read_bytes()).hexdigest())"
    )
    outputs = [
        subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=tmp_path, check=True, capture_output=True,
                       env=os.environ | {"PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert outputs[0] == outputs[1] and len(outputs[0]) == 130


def frames_of_water():
    return {"z": [8, 1, 1], "R": np.stack([water(k).positions for k in range(2)]), "E": np.zeros(2)}


def test_many_groups_become_one_block(tmp_path):
    """QM7-X has millions of groups: they are read together."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for k in range(30):
            group = file.create_group(f"{k // 3}/c{k}")
            group["atNUM"], group["atXYZ"] = water(k).numbers, water(k).positions
            group["ePBE0+MBD"], group["vDIP"] = [float(k)], np.full(3, k)
    (block,) = readers.read_hdf5(tmp_path / "x.h5", {}, {})
    order = sorted(range(30), key=lambda k: (str(k // 3), f"c{k}"))
    assert block.molecules["energy"].tolist() == order and block.molecules["dipole"][:, 2].tolist() == order
    assert block.words["group"] == [str(k // 3) for k in order]


@pytest.mark.parametrize("lacking", [0, 3])
def test_groups_that_differ(tmp_path, lacking):
    """Forces that only some groups have are neither dropped nor made up."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for k in range(5):
            group = file.create_group(f"m/c{k}")
            group["atNUM"], group["atXYZ"], group["ePBE0+MBD"] = water(k).numbers, water(k).positions, [float(k)]
            if k != lacking:
                group["totFOR"] = np.zeros((3, 3))
    with pytest.raises(InputError, match=f"structure {lacking} of .* has no forces, others have"):
        list(readers.read_hdf5(tmp_path / "x.h5", {}, {}))


@pytest.mark.parametrize(("name", "shape"), [("totFOR", (2, 3)), ("cell", (2, 2)), ("hCHG", (5,))])
def test_groups_of_wrong_shapes(tmp_path, name, shape):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for k in range(2):
            group = file.create_group(f"m/c{k}")
            group["atNUM"], group["atXYZ"], group["ePBE0+MBD"] = water(k).numbers, water(k).positions, [float(k)]
            group[name] = np.ones(shape)
    with pytest.raises(InputError, match="x.h5 has the shape"):
        list(readers.read_hdf5(tmp_path / "x.h5", {}, {}))


def test_words_of_an_npz(read, tmp_path):
    np.savez(tmp_path / "x.npz", kind=["a", "b"], **frames_of_water())
    data = read(tmp_path / "x.npz", words=["kind"], train_rows="kind=b", train=1, val=0, test=1)
    assert data.split["train"].tolist() == [1]
    for wrong, message in (("kinds", "no array 'kinds' with a word for each"), ("z", "no array 'z' with a word")):
        with pytest.raises(InputError, match=message):
            read(tmp_path / "x.npz", words=[wrong])


def test_a_word_of_two_kinds_is_not_guessed(read, tmp_path):
    np.savez(tmp_path / "a.npz", kind=["a", "b"], **frames_of_water())
    with pytest.raises(InputError, match="'a' is a word of several kinds: say kind=a or file=a"):
        read(tmp_path / "a.npz", words=["kind"], train_rows="a", train=1, val=0)
