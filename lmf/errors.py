"""Errors caused by the user or the machine, and their one-line messages. All other exceptions are bugs."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

_MACHINE_ERRNOS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG,  # disk full, quota, file too large
    errno.EROFS, errno.EACCES, errno.EPERM,  # read-only, not permitted
    errno.ENODEV, errno.ENXIO, errno.EIO, errno.ESTALE,  # no device, broken device
    errno.EMFILE, errno.ENFILE, errno.EBUSY,  # too many open files
    errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP,  # unusable file names
}  # fmt: skip


class UserError(ValueError):
    """Raised for invalid input. The message is one line that says what is wrong and what would be right.

    The command ``lmf`` prints only the message. Other exceptions keep their traceback.
    """


class MissingExtra(UserError, ImportError):
    """Raised if a package of an extra, such as ``lmf[train]``, is not installed."""


@contextmanager
def needed(extra: str) -> Iterator[None]:
    """Report a failed import within the block as a missing extra.

    Args:
        extra: name of the extra that installs the imported packages.

    Raises:
        MissingExtra: if one of the packages is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "lmf":
            raise
        raise MissingExtra(f"{error.name} is not installed: pip install 'lmf[{extra}]'") from error


def did_you_mean(unknown: str | Iterable[str], known: Iterable[str]) -> str:
    """Return the end of a message about ``unknown`` names, which proposes similar ``known`` ones; empty without any."""
    names = [unknown] if isinstance(unknown, str) else unknown
    choices = list(known)
    found = [match for name in names for match in difflib.get_close_matches(name, choices, 1)]
    return f"; did you mean {', '.join(dict.fromkeys(found))}?" if found else ""


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return the message of ``error`` on one line of at most ``limit`` characters, or its type if it is empty."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def explain(error: BaseException) -> str | None:
    """Return a one-line message for an error that the user or the machine has caused; None for a bug."""
    if isinstance(error, UserError) or _is_machine_error(error):
        return describe(error)
    return None


def _is_machine_error(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _MACHINE_ERRNOS
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)  # PyTorch has no class for it


def describe(error: BaseException) -> str:
    """Return a one-line message for any error; for an `OSError` with a file it is the file and the reason."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return one_line(error, limit=1000)


def reason(error: OSError) -> str:
    """Return the reason of ``error`` without the name of the file."""
    return error.strerror or one_line(error)
