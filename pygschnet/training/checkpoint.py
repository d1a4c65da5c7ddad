"""Checkpoints that are written whole or not at all."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO

from pygschnet.files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint and replaces it in one step.

    Lightning writes to the system's temporary folder and copies, which leaves half a file on a full disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint to a local file."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_bytes(buffer.getbuffer())
