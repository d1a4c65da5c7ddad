"""Files for deployment: one compiled function, checked against the model before anybody gets to see it."""

import copy
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols
from torch_geometric.data import Data

from pygschnet.errors import InputError
from pygschnet.export.accuracy import Case, Deviation, cases, choose_knots, deviation, sizes
from pygschnet.export.program import ACTIVATIONS, Program
from pygschnet.export.structures import crystals, from_file, molecules
from pygschnet.files import replacing
from pygschnet.heads import Atomwise
from pygschnet.model import AtomisticModel
from pygschnet.representations import SchNet
from pygschnet.saving import load
from pygschnet.units import UNITS

COMPILED, PROGRAM = ".pt2", ".ep"
"""Endings of compiled packages and of programs of `torch.export`."""

METADATA = "pygschnet"
"""Key of the JSON that goes with a file."""

NOISE = {torch.float32: 1e-5, torch.float64: 1e-11}
"""By how much a file may differ from the model, in units of the largest number of its kind; what is exact in float32
was seen to differ by 1e-6 (docs/export.md), what is wrong differs by far more."""

FROM_DATA, MOLECULES, CRYSTALS = 100, (1, 2, 3, 5, 8, 13, 21, 34) * 4, (1, 2, 8, 20, 40)
"""How many structures of a file, and which sizes of generated ones, are measured."""

CONSIDERED = (1, 6, 8)
"""Atomic numbers where a model does not know what it was trained on."""


def export(model: str, output: str, error: float = 1e-6, data: str | None = None) -> None:
    """Write a trained model to a file that computes energies, forces and virials without this package.

    The file takes z [atoms], pos [atoms, 3] in Å, edge_index [2, edges] (sources, targets; both directions) and offsets
    [edges, 3] in Å, added to the sources; it gives energy (eV), atomic energies (eV), forces (eV/Å) and virial (eV).
    docs/export.md has an example.

    Args:
        model: model file, as fit writes it to the run folder.
        output: file to write; NAME.pt2 for a compiled package, NAME.ep for a program of torch.export.
        error: largest error of the tabulated filters, in eV per atom.
        data: file with structures to measure that error on: npz, HDF5, or whatever ASE reads, in Å; null for structures
            made up from the model's elements.

    Raises:
        InputError: if the model cannot be exported, the error not be kept, or the file not be written.
    """
    trained = load(model)
    structures = None if data is None else from_file(data, FROM_DATA)
    about = write(trained, output, error, structures)
    print(f"{output}: largest errors on {about['structures']} structures, against the networks themselves in float64")
    print(f"  {'':<26}{'energy, eV/atom':>18}{'forces, eV/Å':>18}{'virial, eV/atom':>18}")
    for name, row in (
        (f"table of {about['table']['knots']} knots", about["table"]),
        (f"the file, in {about['precision']}", about["file"]),
        ("largest values", about["largest"]),
    ):
        print(f"  {name:<26}" + "".join(f"{row[quantity]:>18.1e}" for quantity in Deviation._fields))
    if about["left_out"]:
        print(f"  left out: {', '.join(about['left_out'])}")


def write(
    model: AtomisticModel,
    path: str | Path,
    error: float = 1e-6,
    structures: Sequence[Data] | None = None,
) -> dict[str, Any]:
    """Tabulate, export, compile, check, and write the file, whole or not at all.

    Args:
        model: SchNet with an `Atomwise` head; its precision becomes that of the file.
        path: of the file; the ending .pt2 or .ep decides what it is.
        error: largest error of energies from the table, in eV per atom.
        structures: to measure on, besides generated ones; without edges.

    Returns:
        The file's metadata, and under `file` what the check has found.

    Raises:
        InputError: if the model or the ending is of another kind, the error cannot be kept, there is no compiler, or
            the path cannot be written.
        RuntimeError: if what has been compiled does not give the model's numbers.
    """
    _check_request(model, Path(path), error)
    model = copy.deepcopy(model).cpu().eval()
    known = model.head.elements.nonzero().flatten().tolist()
    made_up = molecules(known or CONSIDERED, MOLECULES)
    if model.cutoff is not None:
        made_up += crystals(known or CONSIDERED, CRYSTALS)
    with replacing(path) as part:
        _try_to_write(part)
        considered = cases(model, [*(structures or []), *made_up])
        knots, found = choose_knots(model, considered, error)
        dtype = model.dtype
        about = {
            "version": version("pygschnet"),
            "torch": torch.__version__,
            "precision": str(dtype).removeprefix("torch."),
            "elements": [chemical_symbols[number] for number in known] or None,
            "cutoff": model.cutoff,
            "units": {name: UNITS[name] for name in ("pos", "energy", "forces", "virial")},
            "left_out": list(model.properties),
            "structures": len(considered),
            "table": {"bound": error, "knots": knots.number, "spacing": knots.spacing, **found._asdict()},
            "largest": sizes(model, considered)._asdict(),
        }
        program = Program(model, knots, dtype)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"model{Path(path).suffix}"
            _write(program, considered, file, json.dumps(about))
            compiled = _check(file, model, considered, Deviation(error, 2 * found.forces, 2 * found.virial), dtype)
            shutil.copyfile(file, part)
    return {**about, "file": compiled._asdict()}


def _check_request(model: AtomisticModel, path: Path, error: float) -> None:
    kinds = (type(model), type(model.representation), type(model.head))
    if kinds != (AtomisticModel, SchNet, Atomwise):
        raise InputError(
            "only SchNet with an Atomwise head can be exported; this model has "
            f"{kinds[1].__name__} and {kinds[2].__name__}"
        )
    if model.head.aggregation != "sum" or model.head.activation not in ACTIVATIONS:
        raise InputError("only sums over atoms can be exported: this head takes the mean, which is no energy")
    if path.suffix not in (COMPILED, PROGRAM):
        raise InputError(f"the name of the file must end in {COMPILED} (compiled) or {PROGRAM} (program), got {path}")
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file in it")
    if not error > 0:
        raise InputError(f"the error must be above 0 eV per atom, got {error}")
    compiler = os.environ.get("CXX", "g++")
    if path.suffix == COMPILED and shutil.which(compiler) is None:
        raise InputError(
            f"compiling needs a C++ compiler, and there is no {compiler}: install g++, name yours in the environment "
            f"variable CXX, or write a program, NAME{PROGRAM}"
        )


def _try_to_write(part: Path) -> None:
    """Refuse now what could not be written in a minute."""
    try:
        part.touch()
    except OSError as error:
        raise InputError(f"cannot write to the folder {part.parent}: {error.strerror}") from None


def _write(program: Program, considered: Sequence[Case], file: Path, about: str) -> None:
    example = max((case.inputs for case in considered), key=lambda inputs: len(inputs[0]))  # of sizes nothing else has
    atoms, edges = torch.export.Dim("atoms"), torch.export.Dim("edges")
    shapes = ({0: atoms}, {0: atoms}, {1: edges}, {0: edges})
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler's own
        exported = torch.export.export(program, example, dynamic_shapes=shapes, strict=False)
        if file.suffix == PROGRAM:
            with file.open("wb") as stream:
                torch.export.save(exported, stream, extra_files={METADATA: about})
            return
        configs = {
            "aot_inductor.metadata": {METADATA: about},
            "cpp.threads": 1,
        }  # more would add atomically, which takes longer on few cores
        torch._inductor.aoti_compile_and_package(exported, package_path=str(file), inductor_configs=configs)


def read(file: Path) -> Callable:
    """The function in a file that `write` has written."""
    if file.suffix == COMPILED:
        return torch._inductor.aoti_load_package(str(file))
    with file.open("rb") as stream:
        return torch.export.load(stream).module()


def _check(
    file: Path, model: AtomisticModel, considered: Sequence[Case], allowed: Deviation, dtype: torch.dtype
) -> Deviation:
    found, size = deviation(read(file), considered), sizes(model, considered)
    for name, one, bound, largest in zip(Deviation._fields, found, allowed, size, strict=True):
        limit = bound + NOISE[dtype] * largest
        if not one <= limit:
            raise RuntimeError(
                f"the file differs from the model by {one:.1e} in {name}, where rounding explains {limit:.1e}: nothing "
                f"was written. This is a fault of torch {torch.__version__} or of pygschnet: please report it; another "
                f"version of torch, or a program (NAME{PROGRAM}), may do"
            )
    return found
