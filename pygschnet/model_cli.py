"""What is done with a trained model: `pygschnet predict MODEL FILE`, and so on."""

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from docstring_parser import parse
from jsonargparse import ArgumentParser

from pygschnet import data_cli
from pygschnet.convert import convert
from pygschnet.doctor import doctor
from pygschnet.evaluate import evaluate
from pygschnet.export import export
from pygschnet.interpret.command import explain
from pygschnet.predict import predict
from pygschnet.simulation import md, relax


class Command(NamedTuple):
    """A function, and its arguments that need no flag; behind optional ones stands ?, behind those for several a +."""

    function: Callable[..., Any]
    positional: tuple[str, ...]


COMMANDS = {
    "predict": Command(predict, ("model", "file")),
    "relax": Command(relax, ("model", "file")),
    "md": Command(md, ("model", "file")),
    "evaluate": Command(evaluate, ("model", "file?")),
    "explain": Command(explain, ("model", "molecules+")),
    "export": Command(export, ("model", "output")),
    "convert": Command(convert, ("source", "output")),
    "doctor": Command(doctor, ("model?", "file?")),
}

SHORT = {"-o": "--out", "-c": "--config"}


def takes(arguments: Sequence[str]) -> bool:
    """Whether these are for `main`; `predict -c runs/x/config.yaml` is Lightning's."""
    if list(arguments[:1]) == ["predict"]:
        return len(arguments) > 1 and (not arguments[1].startswith("-") or arguments[1] == "--help")
    return bool(arguments) and arguments[0] in COMMANDS


def main(name: str, *arguments: str) -> None:
    """Run one of `COMMANDS` with these arguments.

    Raises:
        InputError: for files or settings that cannot be used.
    """
    function, positional = COMMANDS[name]
    help_of = {parameter.arg_name: parameter.description for parameter in parse(inspect.getdoc(function) or "").params}
    parser = ArgumentParser(prog=f"pygschnet {name}", description=(function.__doc__ or "").partition("\n")[0])
    if function in (evaluate, explain):  # doctor looks at the rest of the configuration too
        parser.add_argument("-c", "--config", type=str, help="Take the data of this configuration of a run.")
        arguments = tuple(data_cli.expand_config(arguments))
    for argument in positional:
        plain = argument.rstrip("?+")
        parser.add_argument(plain, nargs=argument[len(plain) :] or None, type=str, help=help_of[plain])
    parser.add_function_arguments(function, skip={argument.rstrip("?+") for argument in positional})
    arguments = tuple(SHORT.get(argument, argument) for argument in arguments)
    options = parser.instantiate_classes(parser.parse_args(list(arguments)))
    code = function(**{parameter: options[parameter] for parameter in inspect.signature(function).parameters})
    if isinstance(code, int) and code:
        sys.exit(code)
