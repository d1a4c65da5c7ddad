"""Checkpoints that are written whole or not at all, checked, and read without running what they hold."""

import contextlib
import io
import os
import pickle
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO

from pygschnet.errors import InputError
from pygschnet.files import replacing

KEPT = 2
"""Checkpoints that are kept besides the last one."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint and replaces it in one step; reads tensors and plain values only.

    Lightning writes to the system's temporary folder and copies, which leaves half a file on a full disk, and some of
    its versions unpickle whatever a checkpoint holds.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint to a local file, and read it back before it replaces the old one."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_bytes(buffer.getbuffer())
            with part.open("rb") as file:
                os.fsync(file.fileno())
                if file.read() != buffer.getbuffer():
                    raise OSError(f"what was written to {part} is not what stands there")

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True) -> Any:
        """Read a local checkpoint.

        Raises:
            InputError: if it is none, is damaged, or holds more than tensors and plain values.
        """
        content = io.BytesIO(Path(path).read_bytes())
        try:
            with zipfile.ZipFile(content) as parts:
                if (damaged := parts.testzip()) is not None:
                    raise InputError(f"{path} is damaged: the checksum of {damaged} is wrong")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is odd about a foreign file does not matter
                content.seek(0)
                return torch.load(content, map_location, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{path} is not a checkpoint, or is damaged: {reason}") from None


def older(path: Path, number: int) -> Path:
    """Where the checkpoint before the last one is kept, or the one before that."""
    return path.with_name(f"{path.stem}-{number}{path.suffix}") if number else path


def keep_older(path: Path) -> None:
    """Keep the last checkpoint under another name before a new one replaces it; at no time is there none."""
    for number in reversed(range(KEPT)):
        if older(path, number).exists():
            with replacing(older(path, number + 1)) as part:
                try:
                    os.link(older(path, number), part)
                except OSError:  # a file system without hard links
                    shutil.copyfile(older(path, number), part)


def newest_good(path: Path) -> Path | None:
    """The last checkpoint, or if it is damaged the one before; None if there is none at all.

    Raises:
        InputError: if there are some, but all of them are damaged.
    """
    reasons = []
    for candidate in (older(path, number) for number in range(KEPT + 1)):
        if not candidate.exists():
            continue
        try:
            AtomicCheckpointIO().load_checkpoint(candidate)
        except InputError as error:
            reasons.append(str(error))
        else:
            for reason in reasons:
                warnings.warn(f"{reason}; going on from {candidate.name}, the one before", stacklevel=2)
            return candidate
    if reasons:
        raise InputError("no checkpoint can be used: " + "; ".join(reasons))
    return None


def remove_parts(folder: Path) -> None:
    """Remove what processes that were killed while writing have left behind."""
    for part in folder.glob("*.part"):
        with contextlib.suppress(OSError):
            part.unlink()
