"""Shows how far a long job is, in one line of a terminal."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

_DELAY = 1.0  # seconds without a line: short jobs show none
_EVERY = 0.5  # seconds between two updates
_ERASE = "\r\x1b[K"


class Progress:
    """A line with the name of the current item, the share that is done and the time that remains.

    It appears after a second, and only on a terminal. Log records erase it before they are printed. Safe for threads.

    Args:
        total: number of items.
        shown: False shows nothing anywhere.
        stream: ``sys.stderr`` by default.
        clock: returns seconds.
    """

    def __init__(
        self,
        total: int,
        shown: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self.shown = shown and total > 0 and self._stream.isatty()
        self._total, self._clock = total, clock
        self._name, self._done = "", 0.0
        self._start, self._line = clock(), ""
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="progress", daemon=True)
        self._handlers: list[logging.Handler] = []

    def begin(self, name: str, done: float) -> None:
        """Say that ``done`` items are complete and the item called ``name`` begins."""
        with self._lock:
            self._name, self._done = name, done

    def advance(self, items: float) -> None:
        """Say that a part of an item is complete; items count 1."""
        with self._lock:
            self._done += items

    def line(self, columns: int) -> str:
        """Return the text that a terminal of so many columns shows now."""
        share = min(1.0, self._done / self._total)
        passed = self._clock() - self._start
        text = f"{share:4.0%}"
        if share > 0:
            text += f"  {duration(passed / share - passed)} left"
        if self._total > 1:
            text = f"{min(self._total, int(self._done) + 1)}/{self._total} " + text
        room = columns - len(text) - 3
        name = self._name if len(self._name) <= room else self._name[: max(0, room - 1)] + "…"
        return f"{name}  {text}" if room > 0 else text[: columns - 1]

    def erase(self) -> None:
        """Remove the line; it comes back at the next update."""
        with self._lock:
            self._write("")

    def _write(self, line: str) -> None:
        if line != self._line:
            self._stream.write(f"\r{line}\x1b[K" if line else _ERASE)
            self._stream.flush()
            self._line = line

    def _refresh(self) -> None:
        wait = _DELAY
        while not self._ended.wait(wait):
            wait = _EVERY
            with self._lock:
                self._write(self.line(shutil.get_terminal_size().columns))

    def filter(self, record: logging.LogRecord) -> bool:
        """Erase the line before a handler prints ``record``."""
        self.erase()
        return True

    def __enter__(self) -> Progress:
        if self.shown:
            self._handlers = [*logging.getLogger().handlers]
            for handler in self._handlers:
                handler.addFilter(self)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.shown:
            self._ended.set()
            self._thread.join()
            self.erase()
            for handler in self._handlers:
                handler.removeFilter(self)


def duration(seconds: float) -> str:
    """Return a time as minutes and seconds, or hours, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
