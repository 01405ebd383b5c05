"""The user's errors: what a better file, option or command would avoid. Everything else is a bug."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Bad input. The message is one line that says what was wrong and what would be right.

    The command prints the message alone; any other exception keeps its traceback.
    """


class MissingExtra(UserError, ImportError):
    """A package is not installed that comes with an extra, such as ``lmf[train]``."""


@contextmanager
def needed(extra: str) -> Iterator[None]:
    """Around imports of packages that only ``extra`` installs.

    Raises:
        MissingExtra: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "lmf":
            raise
        raise MissingExtra(f"{error.name} is not installed: pip install 'lmf[{extra}]'") from error


def one_line(error: BaseException, limit: int = 300) -> str:
    """The message of ``error`` on one line of at most ``limit`` characters, or its type if it has none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
