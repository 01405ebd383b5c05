"""Shares pictures over worker processes, any of which may die without harm to the others."""

from __future__ import annotations

import logging
import signal
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from lmf.inference import files
from lmf.kernels import choice
from lmf.model import SRModel

log = logging.getLogger(__name__)

Job = tuple[Path, Path]
AGAIN = "the same command again enlarges what is missing"


@dataclass
class Worker:
    """A worker process.

    Attributes:
        name: for messages.
        process: the process.
        pipe: to the process; it ends when the process ends.
        job: what the process works on; None while it starts or waits.
    """

    name: str
    process: BaseProcess
    pipe: Connection
    job: Job | None = None


def run(
    model: SRModel,
    jobs: Sequence[Job],
    devices: Sequence[torch.device],
    *,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    **options: Any,
) -> int:
    """Enlarge each (input, output) of ``jobs`` in one process per device; log the pictures that fail and continue.

    Every process takes the next picture when it has finished one, and computes encoders as this one does
    (`lmf.kernels.encoder`). If a process dies, its picture counts as failed and the others continue. Complete pictures
    stay.

    Args:
        model: the model, on the CPU.
        jobs: see `lmf.inference.planning.plan`.
        devices: one for each process; several processes on the CPU share its threads.
        autocast: creates the context to compute in.
        options: options of `lmf.inference.files.run`.

    Returns:
        The number of pictures that failed or were not started.
    """
    todo = deque(jobs)
    threads = max(1, torch.get_num_threads() // len(devices))
    context = multiprocessing.get_context("spawn")  # forking a process with threads is not safe
    failed = 0
    workers: list[Worker] = []
    with files.terminable():
        try:
            for number, device in enumerate(devices[: len(jobs)]):
                ours, theirs = context.Pipe()
                arguments = (theirs, model, device, threads, autocast, choice.allowed(), options)
                process = context.Process(target=serve, args=arguments, name=f"worker {number}", daemon=True)
                process.start()
                theirs.close()
                workers.append(Worker(f"worker {number}", process, ours))
            while workers:
                for pipe in wait([worker.pipe for worker in workers]):
                    worker = next(worker for worker in workers if worker.pipe is pipe)
                    try:
                        message = worker.pipe.recv()
                    except (EOFError, ConnectionResetError):
                        workers.remove(worker)
                        failed += bury(worker)
                        continue
                    if isinstance(message, int):  # the outcome of a picture, or 0 at the start
                        failed += message
                        worker.job = todo.popleft() if todo else None
                        with suppress(BrokenPipeError):  # noticed above
                            worker.pipe.send(worker.job)
                    else:
                        log.log(*message)
        finally:
            for worker in workers:
                worker.process.terminate()
                worker.process.join()
    if todo:
        log.error(f"all workers have ended; {len(todo)} of {len(jobs)} pictures were not started, {AGAIN}")
    return failed + len(todo)


def bury(worker: Worker) -> int:
    """Log how a worker ended; return the number of pictures that failed with it."""
    worker.process.join()
    code = worker.process.exitcode or 0
    if worker.job is None and code == 0:
        return 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    if worker.job is None:
        log.error(f"{worker.name} {how}; the others continue")
        return 0
    log.error(f"{worker.job[0]}: {worker.name} {how}; the others continue, and {AGAIN}")
    return 1


def serve(
    pipe: Connection,
    model: SRModel,
    device: torch.device,
    threads: int,
    autocast: Callable[[], AbstractContextManager[Any]],
    encoders: tuple[str, ...],
    options: dict[str, Any],
) -> None:
    """Enlarge the pictures that arrive in ``pipe`` until None arrives or the other process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    root = logging.getLogger()
    root.handlers[:] = [Forward(pipe)]
    root.setLevel(logging.INFO)
    torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    model.to(device)
    with choice.encoder(*encoders), suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send(0)
        while (job := pipe.recv()) is not None:
            pipe.send(files.run(model, [job], autocast=autocast, alone=False, **options))


class Forward(logging.Handler):
    """Sends log records to another process."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self.pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        """Send the level and the text of ``record``."""
        with suppress(BrokenPipeError):
            self.pipe.send((record.levelno, record.getMessage()))
