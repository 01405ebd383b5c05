"""Threads that work in the background and end before Python does.

A thread that is inside a library when the interpreter is torn down aborts the process. So these are asked to stop when
the process ends, however it ends, and are waited for. That happens before executors of `concurrent.futures`, which they
may use, refuse work; functions of `atexit` run after that.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import thread as _executors  # noqa: F401, its end is registered first and so comes last
from typing import Any

_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_ending = threading.Event()


def start(work: Callable[..., None], *arguments: Any) -> threading.Thread:
    """Start a thread that calls ``work``, which must return soon after `ending` has become true."""
    thread = threading.Thread(target=work, args=arguments, daemon=True)  # else Python waits before it asks them to stop
    _threads.add(thread)
    thread.start()
    return thread


def ending() -> bool:
    """Return whether the process is about to end."""
    return _ending.is_set()


def _end() -> None:
    _ending.set()
    for thread in list(_threads):
        thread.join()


threading._register_atexit(_end)  # type: ignore[attr-defined]
