"""Atomic checkpoints: a file holds either the new checkpoint or the previous one, never a partial one."""

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
    """Writes a checkpoint to a temporary file in the same folder, flushes it to the disk and renames it.

    Lightning's plugin moves the file from the system's temporary folder. Between file systems this copies over the old
    checkpoint, so a full disk or a kill at that moment destroys both.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Save ``checkpoint`` to the local ``path``.

        Raises:
            OSError: if it cannot be written. The previous file at ``path`` does not change.
            TypeError: if ``storage_options`` are given.
        """
        if storage_options is not None:
            raise TypeError(f"checkpoints are local files, storage_options must be None, got {storage_options!r}")
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
