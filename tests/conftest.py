"""Shapes in signatures are checked in every test, and converted data do not go to the user's cache."""

import os
import sys
import tempfile

import pytest
from jaxtyping import install_import_hook

install_import_hook("pygschnet", "beartype.beartype")

_cache = tempfile.TemporaryDirectory(prefix="pygschnet-tests-")
os.environ["PYGSCHNET_CACHE"] = _cache.name


@pytest.fixture
def pygschnet_command(monkeypatch, capsys):
    """Runs the command line; returns what it prints, on standard error if it is to exit with a code."""
    from pygschnet.cli import main

    def run(*arguments: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["pygschnet", *arguments])
        if code:
            with pytest.raises(SystemExit) as stop:
                main()
            assert stop.value.code == code
        else:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return captured.out if not code else captured.err

    return run
