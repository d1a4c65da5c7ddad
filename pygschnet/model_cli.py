"""`pygschnet predict FILE`, `md`, `relax`: what is done with a trained model."""

from collections.abc import Callable, Sequence

from jsonargparse import auto_cli

from pygschnet.predict import predict
from pygschnet.simulation import md, relax

COMMANDS: dict[str, Callable[..., None]] = {"predict": predict, "md": md, "relax": relax}


def main(command: str, arguments: Sequence[str]) -> None:
    """Run one of `COMMANDS` with these arguments.

    Raises:
        InputError: for files or settings that cannot be used.
    """
    auto_cli(COMMANDS[command], args=list(arguments), as_positional=True, prog=f"pygschnet {command}")
