"""Published data sets in their true formats, own files in every layout, laws on real data, and files that are wrong."""

import io
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
from safetensors.numpy import save_file

from pygschnet import InputError
from pygschnet.datasets import ANI1, ISO17, MD17, QM7X, QM9, Files
from pygschnet.datasets.checks import work_and_energy
from pygschnet.datasets.files import ANI1_ATOMS
from tests.structures import SHARED

HA, BOHR, KCAL, DEBYE, GPA = 27.211386, 0.52917721, 0.0433641, 0.20819434, 1 / 160.21766
PER_ATOM = ("z", "pos", "forces", "charges")
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="the reference data are not beside this checkout")


def bug(what, *values):
    return pytest.param(*values, marks=pytest.mark.xfail(strict=True, reason=what))


@pytest.fixture
def read(tmp_path):
    """A data set that is set up, with a cache of its own, which holds nothing if the data cannot be read."""

    def read(path=None, kind=Files, **settings):
        given = {} if path is None else {"path": [str(p) for p in path] if isinstance(path, list) else str(path)}
        common = {"train": 1, "val": 0, "store_edges": False, "cache": str(tmp_path / "cache")}
        data = kind(**given, **(common | settings))
        data.setup("fit")
        return data

    yield read
    left = [path.name for path in tmp_path.glob("cache/*") if path.suffix not in (".lock", ".safetensors")]
    assert not left


def nothing_cached(tmp_path):
    return not [path for path in tmp_path.glob("cache/*") if path.suffix != ".lock"]


def energies(data, part):
    return sorted(data.molecules.batch(data.split[part]).energy.tolist())


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
FELL_APART = [2, 879, 881, 33458, 33460, *range(100_001, 103_050)]
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

    def make(files=None, **settings):
        lines = "".join(f"{k:8}    NC(=N)C#N    NC(=N)C#N    [NH]C(=[NH2])C#N    6.036217\n" for k in FELL_APART)
        head = f"\nList of molecules among the\n133885 GDB9 \nindices\nof\n\n{RULE}\n#   Index  GDB17 SMILES\n{RULE}\n"
        raw = {f"dsgdb9nsd_{number:06}.xyz": text.encode() for number, text in raw_files().items()}
        contents = {
            "dsgdb9nsd.xyz.tar.bz2": tar_bytes(raw, "w:bz2"),
            "uncharacterized.txt": f"{head}{lines}{RULE}\n".encode(),
            "atomref.txt": REFERENCES.encode(),
        }
        for name, content in (contents | (files or {})).items():
            (tmp_path / name).write_bytes(content)
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
    FELL_APART[2] = 880
    try:
        assert qm9().store["gdb_id"].tolist() == [1, 33459]
        assert qm9(remove_uncharacterized=False).store["gdb_id"].tolist() == [1, 880, 33459]
    finally:
        FELL_APART[2] = 881


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
        y = [value[name] * (1 if name in INSIDE else 27.211386246) for name in NAMES[3:]] + 7 * [0.0]
        y = [y[NAMES[3:].index(name)] for name in NAMES[3:]] + 7 * [0.0]
        labels = {"y": torch.tensor([y[:19]]), "name": f"gdb_{number}", "idx": number - 1}
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


def archive(**members):
    return {"dsgdb9nsd.xyz.tar.bz2": tar_bytes({f"{name}.xyz": text for name, text in members.items()}, "w:bz2")}


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ({}, {"target": "u0"}, "QM9 has no property 'u0'; it has A, B, C, mu"),
        ({}, {"target": "A", "source": "pyg"}, "QM9 has no property 'A'; it has mu"),
        ({"dsgdb9nsd.xyz.tar.bz2": archive(x_000001=METHANE.encode())["dsgdb9nsd.xyz.tar.bz2"][:99]}, {}, "is damaged"),
        ({"uncharacterized.txt": b"1 C C C 0.1\n2 N N N 0.1\n"}, {}, "lists 2 molecules instead of 3054"),
        ({"atomref.txt": REFERENCES.replace("F ", "X ").encode()}, {}, "no table of atom references"),
        (archive(x_000001=METHANE[:300].encode()), {}, "molecule 1 of .* is not in the format of QM9"),
        (
            archive(x_000001=METHANE.replace("C\t-", "Q\t-").encode()),
            {},
            "molecule 1 of .* is not in the format of QM9",
        ),
        (archive(x_000001=METHANE.replace("6.469", "").encode()), {}, "molecule 1 of .* is not in the format of QM9"),
        ({"qm9_v3.zip": b"PK\x03\x04"}, {"source": "pyg"}, "qm9_v3.zip cannot be read"),
        bug("ValueError", {"atomref.txt": REFERENCES.replace("       2.981", "").encode()}, {}, "atomref"),
        bug("IndexError without molecules", archive(), {}, "tar.bz2"),
        bug("KeyError", saved([{"a": 1}]), {"source": "pyg"}, "qm9_v3.zip"),
        bug("IndexError without molecules", saved([]), {"source": "pyg"}, "qm9_v3.zip"),
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
    [("0 1 3", "-1"), ("1 99", "98"), ("2 3", "train.*validation"), bug("ValueError", "1 b", "train_ids.txt")],
)
def test_bad_ids_of_iso17(read, iso17, tmp_path, ids, message):
    (tmp_path / "iso17" / "train_ids.txt").write_text(ids)
    with pytest.raises(InputError, match=message):
        read(**iso17)


@pytest.mark.parametrize(
    "damage",
    [
        bug("files that came out of a damaged archive are used the next time", lambda content: content[:-3000]),
        bug("BadGzipFile", lambda content: content[:-8] + bytes(8)),
    ],
)
def test_a_damaged_archive_of_iso17_leaves_no_databases(read, iso17, tmp_path, damage):
    rng = np.random.default_rng(0)
    names = ("train_ids.txt", "validation_ids.txt", "reference.db", "test_other.db")
    members = {f"iso17/{name}": (tmp_path / "iso17" / name).read_bytes() for name in names}
    members["iso17/test_other.db"] += rng.bytes(10_000)
    (tmp_path / "iso17.tar.gz").write_bytes(damage(tar_bytes(members, "w:gz")))
    for path in (tmp_path / "iso17").iterdir():
        path.unlink()
    for _ in range(2):
        with pytest.raises(InputError, match="iso17.tar.gz is damaged"):
            read(**iso17)


@pytest.mark.parametrize(
    "shape", [bug("vectors of a single structure are refused", [True]), bug("the same", [False])], ids=["n,1", "n"]
)
def test_qm7x(read, tmp_path, shape):
    """Groups f[molecule][conformer], and sets of the split that share no molecules."""
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "1000.hdf5", "w") as file:
        for number, name in enumerate(("H2O", "CH4", "NH3", "C2H4", "H2CO", "CH3OH"), 1):
            for step in range(3):
                atoms = molecule(name)
                group = file.create_group(f"{number}/Geom-m{number}-i1-c1-{step}")
                group["atNUM"], group["atXYZ"] = atoms.numbers, atoms.positions + 0.01 * step
                group["ePBE0+MBD"], group["totFOR"] = np.array([-10.0 * number - step]), 0.1 * atoms.positions
                group["vDIP"], group["hRAT"] = np.array([0.1, 0.2, 0.3 * number]), rng.random((len(atoms), 1))
                group["hCHG"] = np.full((len(atoms), 1) if shape[0] else len(atoms), 0.01 * number)
    data = read(tmp_path / "1000.hdf5", QM7X, group_by="group", train=3, val=1)
    assert data.store["energy"].tolist() == [-10.0 * number - step for number in range(1, 7) for step in range(3)]
    item, atoms = data.molecules[13], molecule("H2CO")
    assert torch.equal(item.pos, torch.from_numpy(atoms.positions + 0.01))
    assert torch.equal(item.forces, torch.from_numpy(0.1 * atoms.positions))
    assert item.dipole[0].tolist() == [0.1, 0.2, 1.5] and item.charges.tolist() == [0.05] * 4
    sets = [{-energy // 10 for energy in energies(data, part)} for part in ("train", "val", "test")]
    assert [len(one) for one in sets] == [3, 1, 2] and not sets[0] & sets[1] | sets[0] & sets[2] | sets[1] & sets[2]


@needs_shared
def test_real_qm7x(read):
    path = SHARED / "qm7x_sample/qm7x_mol226_100.npz"
    batch = read(path, QM7X).molecules.batch(range(100))
    with np.load(path) as file:
        assert np.array_equal(batch.energy, file["ePBE0+MBD"][:, 0]) and np.array_equal(batch.dipole, file["vDIP"])
        assert np.array_equal(batch.charges.view(100, 18, 1), file["hCHG"])
    assert batch.charges.view(100, 18).sum(1).abs().max() < 1e-3  # neutral
    assert batch.forces.view(100, 18, 3).sum(1).abs().max() < 1e-3 < batch.forces.abs().mean()
    moments = (batch.charges[:, None] * batch.pos).view(100, 18, 3).sum(1)
    assert torch.corrcoef(torch.stack([moments.flatten(), batch.dipole.flatten()]))[0, 1] > 0.9


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


def rmd17(tmp_path, molecule_name="ethanol", **changes):
    atoms = molecule("CH3CH2OH")
    coords = np.stack([atoms.positions + 0.01 * k for k in range(20)])
    arrays = {"nuclear_charges": atoms.numbers.astype(np.uint8), "coords": coords, "forces": 10 * coords}
    arrays |= {"energies": -97000.0 - np.arange(20.0), "old_energies": -97500.0 - np.arange(20), "old_forces": coords}
    inner = io.BytesIO()
    np.savez(inner, **arrays)
    members = {"rmd17/readme.txt": b"read me", f"rmd17/npz_data/rmd17_{molecule_name}.npz": inner.getvalue()}
    rows = {"index_train_01.csv": b"1\n3\n5\n7\n", "index_test_01.csv": b"2\n4\n", "index_train_02.csv": b"0\n4\n"}
    members |= {f"rmd17/splits/{name}": content for name, content in rows.items()}
    (tmp_path / "rmd17").mkdir()
    content = changes.get("archive", lambda content: content)(tar_bytes(members | changes.get("members", {}), "w:bz2"))
    (tmp_path / "rmd17" / "rmd17.tar.bz2").write_bytes(content)
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
        ({"molecule_name": "toluene"}, {}, "has no molecule ethanol"),
        ({"archive": lambda content: content[:200]}, {}, "rmd17.tar.bz2 is damaged"),
        ({}, {"test_rows": "train_02"}, "no set of rows|both in|train_02"),
        ({}, {"molecule": "benzene2018"}, "no molecule 'benzene2018'"),
        bug("BadZipFile", {"members": {"rmd17/npz_data/rmd17_ethanol.npz": b"PK\x03\x04"}}, {}, "damaged"),
        bug("ValueError", {"members": {"rmd17/splits/index_train_01.csv": b"index\n1\n"}}, {}, "index_train_01"),
    ],
)
def test_bad_archives_of_rmd17(read, tmp_path, changes, settings, message):
    with pytest.raises(InputError, match=message):
        read(**(rmd17(tmp_path, **changes) | settings))
    assert settings or (nothing_cached(tmp_path) and not (tmp_path / "rmd17" / "rmd17_ethanol.npz").exists())
