"""`pygschnet data`: look at data, convert them, download them."""

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from pygschnet.datasets import MoleculeData, info
from pygschnet.datasets.choose import reader_of
from pygschnet.datasets.download import take_from
from pygschnet.errors import InputError

COMMANDS = {
    "info": "Print what a data set holds, and what is suspicious about it.",
    "convert": "Write a data set to one file that opens at once, for Files.",
    "download": "Fetch the raw files of a published data set, to train without a network later.",
}
USAGE = (
    """\
usage: pygschnet data COMMAND [FILE] [OUTPUT] [--data CLASS] [--data.KEY VALUE ...]

"""
    + "\n".join(f"  {name:10}{text}" for name, text in COMMANDS.items())
    + """

  pygschnet data info data/ethanol.npz --data.cutoff 5
  pygschnet data info -c runs/ethanol/config.yaml
  pygschnet data convert frames.extxyz frames.safetensors --data.units.energy kcal/mol
  pygschnet data download --data QM9 --data.root data/qm9

pygschnet data COMMAND --help lists all options, pygschnet data info --data.help QM9 those of a data set.
"""
)


def main(arguments: list[str]) -> None:
    """Run `pygschnet data` with these arguments.

    Raises:
        InputError: for files or settings that cannot be used.
    """
    command, *rest = arguments or ["--help"]
    if command not in COMMANDS:
        print(USAGE, file=sys.stdout if command in ("-h", "--help") else sys.stderr)
        sys.exit(0 if command in ("-h", "--help") else 2)
    parser = ArgumentParser(prog=f"pygschnet data {command}", description=COMMANDS[command])
    parser.add_argument("-c", "--config", type=str, help="Take the data of this configuration of a run.")
    if command != "download":
        parser.add_argument("file", nargs="?", type=str, help="File to read; --data chooses how.")
    if command == "info":
        parser.add_argument("--json", type=str, help="Write the same to this file.")
    if command == "convert":
        parser.add_argument("output", nargs="?", type=str, help="File to write, ending in .safetensors.")
        parser.add_argument("--with_edges", type=bool, default=False, help="Store the edges to data.cutoff with it.")
    if command == "download":
        parser.add_argument(
            "--from_file", type=str, nargs="*", default=[], help="Files fetched by hand, to put in place."
        )
    parser.add_argument("--data", type=MoleculeData, required=True, help="The data set and its settings.")
    options = parser.parse_args(_expand(rest))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore" if command == "info" else "default", UserWarning
        )  # info prints suspicions itself
        {"info": _info, "convert": _convert, "download": _download}[command](parser.instantiate_classes(options))


def _info(options: Any) -> None:
    options.data.setup("fit")
    summary = info.summarize(options.data)
    print(info.as_text(summary))
    if options.json:
        Path(options.json).write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")


def _convert(options: Any) -> None:
    output = options.output
    if output is None or not output.endswith(".safetensors"):
        raise InputError(f"give the file to write, ending in .safetensors; got {output}")
    options.data.write(Path(output), edges=options.with_edges)
    print(f"{output}, {Path(output).stat().st_size / 1e6:.1f} MB, is for --data Files --data.path {output}")


def _download(options: Any) -> None:
    take_from([Path(path) for path in options.from_file])
    files = options.data.files()
    unused = {Path(path).name for path in options.from_file} - {path.name for path in files}
    if unused:
        raise InputError(f"{', '.join(unused)} is not wanted; the files are {', '.join(path.name for path in files)}")
    print(*files, sep="\n")


def expand_config(arguments: Sequence[str]) -> list[str]:
    """A configuration of a run stands for its data.

    Raises:
        InputError: if it describes none.
    """
    expanded = list(arguments)
    for flag in ("-c", "--config"):
        if flag in expanded[:-1]:
            config = yaml.safe_load(Path(expanded[expanded.index(flag) + 1]).read_text())
            if not isinstance(config, dict) or "data" not in config:
                raise InputError(f"{expanded[expanded.index(flag) + 1]} describes no data")
            expanded = [f"--data={json.dumps(config['data'])}", *expanded]
    return expanded


def _expand(arguments: list[str]) -> list[str]:
    """A configuration stands for its data; a file without a data set for the one that reads it."""
    expanded = expand_config(arguments)
    if arguments and not arguments[0].startswith("-"):
        file = arguments[0]
        chosen = any(argument == "--data" or argument.startswith("--data=") for argument in arguments)
        reader = [] if chosen else [f"--data={reader_of(Path(file)).__name__}"]
        expanded = [*reader, *expanded, f"--data.path={file}"]
    return expanded
