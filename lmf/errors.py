"""Errors that a user can fix with another file, option or command. All other exceptions are bugs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return the message of ``error`` on one line of at most ``limit`` characters, or its type if it is empty."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
