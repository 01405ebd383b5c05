"""Files that appear complete or not at all, and where cached ones go."""

from __future__ import annotations

import os
import shutil
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


@contextmanager
def making_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``, renamed to it at the end of the block; a failure leaves nothing behind.

    If another process has made ``path`` in the meantime, that folder stays and the temporary one is discarded.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes a whole file; see `replacing`."""
    write_bytes(path, text.encode())


def cache_folder() -> Path:
    """Where compiled kernels and decoded pictures are kept: ``$LMF_CACHE``, else ``lmf`` in ``$XDG_CACHE_HOME`` or
    ``~/.cache``."""
    if own := os.environ.get("LMF_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lmf"
