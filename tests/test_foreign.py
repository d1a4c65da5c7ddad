"""Hostile files: nothing in them is run, and what is wrong is said."""

import argparse
import builtins
import functools
import os
import pickle
import random
import runpy
import shutil
import subprocess
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.nn.models import SchNet as PyGSchNet

from pygschnet import InputError
from pygschnet.convert import from_foreign
from pygschnet.convert.foreign import LEGACY, Foreign, read

FIXTURES = Path(__file__).parent / "fixtures" / "foreign"
FILES = [
    *("schnetpack1.model", "schnetpack1_float64.model", "schnetpack2.ckpt", "schnetpack2.model"),
    *("schnetpack2.state_dict", "tf2017/validation/best_model-5000.index"),
]


class Evil:
    """Runs something when it is unpickled."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def payloads(mark: Path) -> dict[str, Evil]:
    """Ways to make a directory; each does when it is unpickled by pickle."""
    mark.with_name("script.py").write_text(f"import os; os.mkdir({str(mark)!r})")
    inner = mark.with_name("inner.pt")
    torch.save(Evil(os.mkdir, str(mark)), inner)
    return {
        "os.mkdir": Evil(os.mkdir, str(mark)),
        "os.system": Evil(os.system, f"mkdir {mark}"),
        "eval": Evil(eval, f"__import__('os').mkdir({str(mark)!r})"),
        "exec": Evil(exec, f"import os; os.mkdir({str(mark)!r})"),
        "subprocess": Evil(subprocess.check_call, ["mkdir", str(mark)]),
        "runpy": Evil(runpy.run_path, str(mark.with_name("script.py"))),
        "nested": Evil(builtins.list, (Evil(os.mkdir, str(mark)),)),
        "torch.load": Evil(functools.partial(torch.load, weights_only=False), str(inner)),
        "getattr": Evil(eval, f"getattr(__import__('os'), 'mkdir')({str(mark)!r})"),
    }


NAMES = list(payloads(Path(os.environ["PYGSCHNET_CACHE"]) / "mark"))
PLACES = {
    "alone": lambda evil: evil,
    "in a state_dict": lambda evil: OrderedDict(PyGSchNet(8, 8, 1, 5).state_dict(), evil=evil),
    "as a name": lambda evil: {evil: torch.ones(3)},
    "as a tensor": lambda evil: {**PyGSchNet(8, 8, 1, 5).state_dict(), "lin1.bias": evil},
    "in a checkpoint": lambda evil: {"state_dict": PyGSchNet(8, 8, 1, 5).state_dict(), "hyper_parameters": evil},
    "in a model": lambda evil: spoiled(evil),
}


def spoiled(evil: Evil) -> torch.nn.Module:
    model = PyGSchNet(8, 8, 1, 5)
    model.mean, model.std, model.trap = 0.0, 1.0, evil
    return model


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_nothing_is_run(name, place, zipped, tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "model.pt"
    torch.save(PLACES[place](payloads(mark)[name]), path, _use_new_zipfile_serialization=zipped)
    try:
        converted = from_foreign(path, energy_unit="eV")
    except InputError as error:
        expected = {"as a name": "no state_dict of a SchNet"}.get(place, "nothing of it was run")
        if name == "torch.load":  # something that is made is to be called
            expected = "made to look like a file of torch"
        else:
            assert place not in ("in a checkpoint", "in a model")
        assert expected in str(error)
    else:  # it stood where nobody looks
        assert place in ("in a checkpoint", "in a model")
        assert converted.kind == "pyg"
    assert not mark.exists()
    if place == "alone" and zipped:  # the trap was set
        torch.load(path, weights_only=False)
        assert mark.exists()


def assembled(code: bytes, path: Path) -> Path:
    """A zip file of torch whose pickle is written by hand."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", code)
        archive.writestr("archive/version", "3\n")
    return path


def by_hand(mark: Path) -> dict[str, bytes]:
    argument = f"V{mark}\n".encode()
    return {
        "GLOBAL and REDUCE": b"cos\nmkdir\n(" + argument + b"tR.",
        "INST": b"(" + argument + b"ios\nmkdir\n.",
        "OBJ": b"(cos\nmkdir\n" + argument + b"o.",
        "NEWOBJ": b"\x80\x02cos\nmkdir\n(" + argument + b"t\x81.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93(" + argument + b"tR.",
        "dotted": b"\x80\x04\x8c\x08builtins\x8c\x0e__import__.mro\x93)R.",
        "a record called": b"cos\nmkdir\n)R(" + argument + b"tR.",
        "BUILD on a class": b"ccollections\nOrderedDict\n(dV__init__\ncos\nmkdir\nsb.",
        "BUILD on a record's class": b"cos\nmkdir\n(dV__init__\ncos\nmkdir\nsb)R.",
        "slots": b"ccollections\nOrderedDict\n)R(N(dVitems\ncos\nmkdir\nstb.",
        "persistent id": b"(Vstorage\ncos\nmkdir\nV0\nVcpu\nI1\ntQ.",
        "module": b"(Vmodule\ncos\nmkdir\nNNtQ(" + argument + b"tR.",
        "itself": b"cx\ny\n)Rp0\n(dV_modules\n(dVa\ng0\nssb.",
        "extension": b"\x80\x02\x82\x01.",
        "memory for a memo": b"\x80\x02K\x01r\x00\x00\x00\x7f.",
        "memory for bytes": b"\x80\x05\x96\x00\x00\x00\x00\x40\x00\x00\x00.",
    }


@pytest.mark.parametrize("name", by_hand(Path("mark")))
def test_opcodes(name, tmp_path):
    mark = tmp_path / "mark"
    path = assembled(by_hand(mark)[name], tmp_path / "model.pt")
    with pytest.raises(InputError):
        from_foreign(path, energy_unit="eV")
    assert not mark.exists()
    assert OrderedDict(a=1).items() and not OrderedDict()  # as it was
    assert issubclass(type(Foreign()), Foreign) and Foreign().args == ()


def test_the_pickle_beside_a_checkpoint(tmp_path):
    shutil.copytree(FIXTURES / "tf2017", tmp_path / "tf2017")
    prefix, mark = tmp_path / "tf2017" / "validation" / "best_model-5000", tmp_path / "mark"
    arguments = argparse.Namespace(cutoff=4.0, intensive=Evil(os.mkdir, str(mark)))
    np.save(tmp_path / "tf2017" / "args.npy", arguments, allow_pickle=True)
    from_foreign(prefix, energy_unit="eV")
    assert not mark.exists()
    arguments = argparse.Namespace(cutoff=Evil(os.mkdir, str(mark)))
    np.save(tmp_path / "tf2017" / "args.npy", arguments, allow_pickle=True)
    with pytest.raises(InputError, match="in place of a tensor; nothing of it was run"):
        from_foreign(prefix, energy_unit="eV")
    assert not mark.exists()
    np.load(tmp_path / "tf2017" / "args.npy", allow_pickle=True)
    assert mark.exists()  # the trap was set


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore")  # of NumPy's, about what it finds
def test_damaged_files(name, tmp_path):
    """Whatever bytes are changed: a refusal or a model, no other error."""
    content = (FIXTURES / name).read_bytes()
    shutil.copytree(FIXTURES, tmp_path / "files")
    path, generator = tmp_path / "files" / name, random.Random(0)
    for attempt in range(60):
        damaged = bytearray(content)
        if attempt % 10 == 0:
            del damaged[generator.randrange(len(damaged)) :]
        for _ in range(attempt % 5 + 1 if damaged else 0):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            from_foreign(path, energy_unit="eV")
        except InputError as error:
            assert str(error)


def test_damaged_pickles(tmp_path):
    """Inside an archive, whose checksums would tell otherwise."""
    with zipfile.ZipFile(FIXTURES / "schnetpack2.model") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    path, generator = tmp_path / "model.pt", random.Random(0)
    for attempt in range(100):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                damaged = bytearray(content)
                for _ in range(attempt % 3 + 1 if name.endswith("data.pkl") else 0):
                    damaged[generator.randrange(len(damaged))] = generator.randrange(256)
                archive.writestr(name, bytes(damaged))
        try:
            from_foreign(path, energy_unit="eV")
        except InputError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no file of torch.save"),
        (pickle.dumps({"a": 1}), "no file of torch.save"),
        (LEGACY, "damaged"),
        (b"GIF89a", "no file of torch.save"),
    ],
)
def test_other_files(content, message, tmp_path):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "model.pt")


def test_other_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(InputError, match="no file of torch.save"):
        read(tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/code/__torch__.py", "")
    with pytest.raises(InputError, match="TorchScript program: give the model it was made from"):
        read(tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/data/0", bytes(10**6), zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="this is compressed"):
        read(tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/byteorder", "big")
    with pytest.raises(InputError, match="big-endian"):
        read(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (4, 68), (68, 1)),
        (1, (4, 4), (4, 1)),
        (0, (4, 4), (400, 1)),
        (0, (10**6,), (0,)),
        (-1, (4, 4), (4, 1)),
        (0, (4, -4), (4, 1)),
        (0, ("4", 4), (4, 1)),
    ],
)
def test_numbers_that_are_not_there(offset, size, stride, tmp_path):
    """A tensor of more numbers than the file has must neither be read beyond them nor take memory."""
    storage = torch.ones(16).untyped_storage()
    storage = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    lie = Evil(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())
    torch.save({"embedding.weight": lie}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="without their values"):
        from_foreign(tmp_path / "model.pt", energy_unit="eV")
