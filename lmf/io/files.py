"""Files that appear complete or not at all, and where cached ones go."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a whole file; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it at the end of the block; a failure leaves nothing behind."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def remove_leftovers(path: Path) -> None:
    """Deletes the temporary files of `replacing` that killed processes left beside ``path``.

    Only for files that no other process writes at the same time.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        leftover.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a whole file; see `replacing`."""
    write_bytes(path, text.encode())


def cache_folder() -> Path:
    """Where compiled kernels and decoded pictures are kept: ``$LMF_CACHE``, else ``lmf`` in ``$XDG_CACHE_HOME`` or
    ``~/.cache``."""
    if own := os.environ.get("LMF_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lmf"
