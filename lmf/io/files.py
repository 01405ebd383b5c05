"""Files and folders that appear complete or not at all, locks, and the cache folder."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4


def _process_space() -> str:
    """Return eight digits for where process numbers mean the same processes: this boot of this machine or container."""
    facts = [platform.node()]
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        facts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return hashlib.sha256("".join(facts).encode()).hexdigest()[:8]


_SPACE = _process_space()
_TEMPORARY = re.compile(r"\..*\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp", re.DOTALL)
_ABANDONED = 86400.0  # seconds since the last change, of files of other machines


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to a file that appears complete or not at all; see `replacing`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to a file that appears complete or not at all; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` and rename it to ``path`` at the end of the block.

    If the block fails, the temporary file is removed and ``path`` stays as it was.

    Raises:
        OSError: if ``path`` cannot be written. The error names ``path``.
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
    """Yield a temporary folder beside ``path`` and rename it to ``path`` at the end of the block.

    If the block fails, the temporary folder is removed. If another process has created ``path`` in the meantime, that
    folder stays and the temporary one is discarded.
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
    """Return a new hidden name beside ``path``.

    The first call for a folder also removes temporary files that killed processes have left in it.
    """
    _remove_leftovers(os.path.abspath(path.parent))
    stem = path.name.encode()[:120].decode(errors="ignore")  # names have at most 255 bytes
    return path.with_name(f".{stem}.{_SPACE}-{os.getpid()}-{uuid4().hex[:8]}.tmp")


@functools.cache  # once per folder and process: a cache folder may hold thousands of files
def _remove_leftovers(folder: str) -> None:
    with suppress(OSError), os.scandir(folder) as entries:
        matches = [(Path(entry.path), match) for entry in entries if (match := _TEMPORARY.fullmatch(entry.name))]
        for path, match in matches:
            with suppress(OSError):  # removed by another process in the meantime, or owned by another user
                ours = match[1] == _SPACE
                if (ours and not _alive(int(match[2]))) or time.time() - _last_change(path) > _ABANDONED:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def _last_change(path: Path) -> float:
    """Return the time of the latest change of a file, or of a folder and everything in it."""
    return max(p.stat().st_mtime for p in (path, *path.rglob("*")))


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of ``folder`` for the block, and yield whether it is held.

    The system releases the lock of a process that is killed. Systems and file systems without such locks yield False.

    Args:
        folder: an existing folder.
        wait: wait for the process that holds the lock; otherwise yield False.
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


def cache_folder() -> Path:
    """Return the folder for compiled kernels and decoded pictures.

    It is ``$LMF_CACHE`` if set, else ``lmf`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """
    if own := os.environ.get("LMF_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lmf"
