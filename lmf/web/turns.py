"""Takes turns: one computation at a time, and waiting users in fair order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Superseded(Exception):
    """Raised by `Turns.turn` if its work is no longer wanted."""


class Turns:
    """A lock that goes to the waiting user who had it longest ago: asking more often gives no larger share."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: list[tuple[str, object]] = []
        self._last: dict[str, int] = {}  # number of the last turn of each user
        self._count = 0
        self._busy = False

    @contextmanager
    def turn(self, user: str, wanted: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Hold the lock for the block.

        Args:
            user: who asks.
            wanted: whether the work still is; asked again after every `wake`.

        Raises:
            Superseded: if ``wanted`` returns False before the turn comes.
        """
        entry = (user, object())
        with self._condition:
            self._waiting.append(entry)
            try:
                self._condition.wait_for(lambda: not wanted() or (not self._busy and self._next() is entry))
                if not wanted():
                    raise Superseded
                self._busy = True
                self._count += 1
                self._last[user] = self._count
            finally:
                self._waiting.remove(entry)
                self._condition.notify_all()
        try:
            yield
        finally:
            with self._condition:
                self._busy = False
                self._condition.notify_all()

    def wake(self) -> None:
        """Let everybody who waits ask again whether their work is wanted."""
        with self._condition:
            self._condition.notify_all()

    def forget(self, user: str) -> None:
        """Forget the turns of a user who is gone."""
        with self._condition:
            self._last.pop(user, None)

    def _next(self) -> tuple[str, object]:
        return min(self._waiting, key=lambda entry: self._last.get(entry[0], 0))  # the first of equals
