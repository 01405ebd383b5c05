"""Files that appear complete or not at all, and where cached ones go."""

from __future__ import annotations

import glob
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

_HOST = platform.node()[:40] or "localhost"


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a whole file; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it at the end of the block; a failure leaves nothing behind.

    Raises:
        OSError: naming ``path``, if it cannot be written.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file
        raise


@contextmanager
def making_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``, renamed to it at the end of the block; a failure leaves nothing behind.

    If another process has made ``path`` in the meantime, that folder stays and the temporary one is discarded.
    """
    temporary = temporary_name(path)
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


def temporary_name(path: Path) -> Path:
    """A new hidden name beside ``path``. What killed processes of this machine left under such names is removed."""
    prefix = f".{path.name.encode()[:120].decode(errors='ignore')}.{_HOST}-"  # names have at most 255 bytes
    for left in path.parent.glob(f"{glob.escape(prefix)}*.tmp"):
        process = left.name.removeprefix(prefix).partition("-")[0]
        if process.isdecimal() and not _alive(int(process)):
            with suppress(OSError):  # it is gone by now, or belongs to someone else
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return path.with_name(f"{prefix}{os.getpid()}-{uuid4().hex[:8]}.tmp")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


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
