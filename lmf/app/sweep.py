"""Multiruns: notes the outcome of every job, shows all results at the end, and skips jobs that have finished.

Hydra gives every job a numbered folder inside the folder of the sweep. When a job ends, `SweepCallback` writes its
outcome there. The same command does not repeat a job that succeeded unless its identity has changed (see
`lmf.app.identity`).
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from lmf.app.collect import collect, show
from lmf.app.identity import identity
from lmf.app.notes import NOTE, read_note, write_note
from lmf.app.runs import SWEEP_DIR, python_path
from lmf.errors import one_line

log = logging.getLogger(__name__)

ATTEMPT, ATTEMPTS = "LMF_SWEEP_ATTEMPT", 3


class SweepCallback(Callback):
    """Updates ``sweep.csv`` and ``summary.csv`` after every job of a multirun; shows and draws them at the end.

    Args:
        metric: value to compare jobs by; None chooses PSNR, or the time of a benchmark.

    Attributes:
        identity: of the current job when it started.
    """

    identity: str

    def __init__(self, metric: str | None = None) -> None:
        self.metric = metric

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Publish the folder of the sweep and register the final table."""
        folder = Path(str(config.hydra.sweep.dir)).absolute()
        os.environ[SWEEP_DIR] = str(folder)
        # Hydra does not call on_multirun_end after a job has failed.
        atexit.register(show_at_exit, folder, self.metric)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Remove the note of an earlier attempt, and identify the code and the files that the job is about to read."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        self.identity = identity(config)
        if not finished(config):
            (Path(config.hydra.runtime.output_dir) / NOTE).unlink(missing_ok=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Write the note of the job and collect all results so far."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        folder = Path(config.hydra.runtime.output_dir)
        failed = job_return.status != JobStatus.COMPLETED
        error = one_line(job_return._return_value, limit=1000) if failed else None
        write_note(folder, list(config.hydra.overrides.task), error, self.identity)
        collect(folder.parent, self.metric)


@contextmanager
def surviving_workers(arguments: Sequence[str]) -> Iterator[None]:
    """Start the command again when a worker of joblib is killed in a multirun.

    Joblib then ends all workers. Jobs that have finished are skipped; a job that is killed `ATTEMPTS` times fails.

    Args:
        arguments: of the command, as it was called.
    """
    try:
        yield
    except Exception as error:
        attempt = int(os.environ.get(ATTEMPT, "1"))
        if type(error).__name__ != "TerminatedWorkerError" or attempt == ATTEMPTS:
            raise
        log.warning("a worker was killed; the jobs that have not finished are started again")
        os.environ[ATTEMPT] = str(attempt + 1)
        os.environ["PYTHONPATH"] = python_path()
        sys.stdout.flush()  # the new program does not get what is buffered
        os.execv(sys.executable, [sys.executable, "-m", "lmf", *arguments])


def finished(config: DictConfig) -> bool:
    """Return whether this job of a multirun has already succeeded with the same identity."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return False
    note = read_note(Path(hydra.runtime.output_dir))
    return note["error"] is None and note["identity"] == identity(config)


def show_at_exit(folder: Path, metric: str | None) -> None:
    """Call `lmf.app.collect.show`, and log an error of the machine, such as a full disk, as one line."""
    try:
        show(folder, metric)
    except OSError as error:
        log.error(f"{error.filename or folder}: {error.strerror}")
