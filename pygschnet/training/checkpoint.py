"""Checkpoints that are written whole or not at all, and read without running what they hold."""

import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO

from pygschnet.errors import InputError
from pygschnet.files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint and replaces it in one step; reads tensors and plain values only.

    Lightning writes to the system's temporary folder and copies, which leaves half a file on a full disk, and some of
    its versions unpickle whatever a checkpoint holds.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint to a local file."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_bytes(buffer.getbuffer())

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True) -> Any:
        """Read a local checkpoint.

        Raises:
            InputError: if it is none, is damaged, or holds more than tensors and plain values.
        """
        content = io.BytesIO(Path(path).read_bytes())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is odd about a foreign file does not matter
                return torch.load(content, map_location, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{path} is not a checkpoint, or is damaged: {reason}") from None
