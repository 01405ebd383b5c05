"""Ranks: which process of a distributed run this is, and its end when the first one dies."""

from __future__ import annotations

import os
import threading
import time


def is_rank_zero() -> bool:
    """Whether this process is the one that speaks and writes, also before Lightning has set anything up."""
    return all(os.environ.get(key, "0") == "0" for key in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"))


def end_with_parent(parent: int, interval: float = 2.0) -> None:
    """Ends this process soon after the process ``parent`` that started it, however that ended.

    Without this a rank can wait for a first rank that was killed, in a collective operation, until the time-out.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(interval)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
