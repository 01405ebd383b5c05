"""The user's errors: what a better file, option or command would avoid. Everything else is a bug."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input. The message is one line that says what was wrong and what would be right.

    The command prints the message alone; any other exception keeps its traceback.
    """


def one_line(error: BaseException, limit: int = 300) -> str:
    """The message of ``error`` on one line of at most ``limit`` characters, or its type if it has none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
