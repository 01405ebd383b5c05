"""Figures about this machine that are measured once and kept beside the compiled kernels."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lmf.io.files import cache_folder, locked, write_text
from lmf.kernels.build import digest

log = logging.getLogger(__name__)

ROUNDS, STEADY = 5, 1.1  # least number of runs of each call, and how far apart its fastest two may be
BUDGET = 1.0  # seconds after which no further round starts


def kept(
    name: str,
    key: str,
    figures: Collection[str],
    measure: Callable[[], Mapping[str, float] | None],
    folder: Path | None = None,
) -> Mapping[str, float] | None:
    """Return figures from a file; if there is none, or it is damaged, measure them and write it.

    One process measures at a time.

    Args:
        name: what is measured; the file's name begins with it.
        key: identifies everything that the figures depend on.
        figures: names of the figures, which are finite and not negative.
        measure: measures the figures; None if the machine is too busy. Nothing is written then.
        folder: folder of the file; `lmf.io.files.cache_folder` by default.

    Returns:
        The figures, or None as ``measure``.
    """
    folder = folder or cache_folder()
    path = folder / f"{name}-{digest(key.encode())}.json"
    if (found := read(path, key, figures)) is not None:
        return found
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if (found := read(path, key, figures)) is not None:
            return found
        measured = measure()
        if measured is None:
            log.info(f"the machine is too busy to measure {name}; the next process tries again")
            return None
        try:
            write_text(path, json.dumps({"key": key, "figures": dict(measured)}, indent=1) + "\n")
        except OSError as error:
            log.warning(f"{path}: cannot be written, so every process measures anew: {error}")
    return measured


def read(path: Path, key: str, figures: Collection[str]) -> dict[str, float] | None:
    """Return the ``figures`` in ``path`` if it is a whole file for ``key``, else None."""
    try:
        content = json.loads(path.read_text())
        found = {name: float(content["figures"][name]) for name in figures}
        whole = content["key"] == key and all(0 <= value < math.inf for value in found.values())
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return found if whole else None


def turns(calls: Sequence[Callable[[], object]]) -> tuple[list[float], bool]:
    """Time calls, which take turns, so that other load on the machine affects all.

    Returns:
        The least seconds of each call, and whether each call took nearly as little twice, as on an idle machine.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    start = time.perf_counter()
    while True:
        for call, taken in zip(calls, seconds, strict=True):
            before = time.perf_counter()
            call()
            taken.append(time.perf_counter() - before)
            taken.sort()
        steady = len(seconds[0]) >= ROUNDS and all(taken[1] <= STEADY * taken[0] for taken in seconds)
        if steady or time.perf_counter() - start > BUDGET:
            return [taken[0] for taken in seconds], steady
