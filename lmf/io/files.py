"""Files that appear complete or not at all, and where cached ones go."""

from __future__ import annotations

import glob
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

_YOUNG = 60  # seconds in which a new folder may not be locked yet


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

    If another process has made ``path`` in the meantime, that folder stays and the temporary one is discarded. What a
    killed process has left of an earlier attempt is removed.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        _remove_abandoned(left)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    temporary.mkdir(parents=True)
    try:
        with locked(temporary):
            yield temporary
            try:
                os.rename(temporary, path)
            except OSError:
                if not path.is_dir():
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Removes a temporary folder that no process has locked."""
    with suppress(OSError):  # it is gone by now, or belongs to someone else
        if time.time() - folder.stat().st_mtime < _YOUNG:
            return
        with locked(folder, wait=False) as ours:
            if ours:
                shutil.rmtree(folder)


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Holds the lock of ``folder`` for the block, and yields whether it does.

    The system releases the lock of a process that is killed. Systems and file systems without such locks yield False.

    Args:
        folder: a folder that exists.
        wait: wait for the process that holds the lock, instead of yielding False.
    """
    with ExitStack() as stack:
        ours = False
        with suppress(ImportError, OSError):
            import fcntl

            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            ours = True
        yield ours


def write_text(path: Path, text: str) -> None:
    """Writes a whole file; see `replacing`."""
    write_bytes(path, text.encode())


def cache_folder() -> Path:
    """Where compiled kernels and decoded pictures are kept: ``$LMF_CACHE``, else ``lmf`` in ``$XDG_CACHE_HOME`` or
    ``~/.cache``."""
    if own := os.environ.get("LMF_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lmf"
