"""Atomic checkpoints: a file holds either the new checkpoint or the previous one, never a part of one."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lmf.io.files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final name, flushes it to the disk and renames it.

    Lightning's own goes through the system's temporary folder and moves the file, which between two file systems
    is a copy over the old checkpoint: a full disk or a kill at that moment leaves a broken one and nothing else.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Saves to the local ``path``.

        Raises:
            OSError: it could not be written; what was at ``path`` before is untouched.
        """
        if storage_options is not None:
            raise TypeError("checkpoints are local files, storage_options have no meaning")
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary, temporary.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            reason = "disk full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
            kept = "; the previous checkpoint is untouched" if path.exists() else ""
            raise OSError(error.errno, f"{reason} while saving {path} ({buffer.tell() / 1e6:.0f} MB){kept}") from error
