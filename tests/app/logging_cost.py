"""Measures what logging costs: python -m tests.app.logging_cost [KEY=VALUE ...]

Trains one epoch with the default loggers and prints the share of the main thread's time between the first and the last
step that was spent in the health callback and the loggers.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger

from lmf.app import pipeline
from lmf.training.callbacks import HealthCallback, health
from lmf.training.loggers import WandbRun

from ..conftest import composer

HOOKS = {
    HealthCallback: ("on_before_optimizer_step", "on_train_batch_end"),
    health.LoaderClock: ("start", "stop"),
    WandbRun: ("log_metrics", "save"),
    CSVLogger: ("log_metrics", "save"),
}


def measure(overrides: list[str], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the share of the time of a training that logging takes.

    Args:
        overrides: of the training.
        clock: seconds of what.
    """
    spent = {"logging": 0.0, "training": 0.0}
    depth = 0

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **options: Any) -> Any:
            nonlocal depth
            depth += 1
            start = clock()
            try:
                return method(*args, **options)
            finally:
                depth -= 1
                if not depth:
                    spent["logging"] += clock() - start

        return call

    def on_train_start(self: HealthCallback, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.begin()
        spent["logging"], spent["training"] = 0.0, -clock()

    def on_train_epoch_end(self: HealthCallback, trainer: L.Trainer, module: L.LightningModule) -> None:
        spent["training"] += clock()

    originals = {(owner, name): getattr(owner, name) for owner, names in HOOKS.items() for name in names}
    start = HealthCallback.on_train_start
    try:
        for (owner, name), method in originals.items():
            setattr(owner, name, timed(method))
        HealthCallback.on_train_start = on_train_start  # type: ignore[method-assign]
        HealthCallback.on_train_epoch_end = on_train_epoch_end  # type: ignore[method-assign]
        with tempfile.TemporaryDirectory() as folder:
            few = ("experiment=lmf_edsr", "schedule.epochs=1", "callbacks.cost=null", "callbacks.progress=null",
                   "callbacks.pictures=null", "+trainer.enable_progress_bar=false")  # fmt: skip
            pipeline.run(composer(Path(folder))(*few, *overrides))
    finally:
        for (owner, name), method in originals.items():
            setattr(owner, name, method)
        HealthCallback.on_train_start = start  # type: ignore[method-assign]
        del HealthCallback.on_train_epoch_end
    return spent["logging"] / spent["training"]


if __name__ == "__main__":
    print(f"logging takes {measure(sys.argv[1:]):.2%} of the time of a training")
