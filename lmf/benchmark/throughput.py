"""Measurement of the speed of training and of the data loader's share of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

from lmf.benchmark.timing import now
from lmf.data import SRDataModule
from lmf.errors import UserError, needed

with needed("train"):
    import lightning as L

WARMUP = 5  # batches


@dataclass
class Throughput:
    """The speed of training and of the data loader.

    Attributes:
        batch_size: samples per batch over all devices.
        workers: number of processes that load samples.
        loader_images_s: samples per second of the loader alone.
        step_images_s: samples per second of training.
        wait: share of a training step between the end of one batch and the start of the next, which is spent on
            waiting for the loader, moving data and augmentation.
        loader_share: time of the loader per batch divided by the time of a step. Above 1 the loader is the bottleneck.
    """

    batch_size: int
    workers: int
    loader_images_s: float
    step_images_s: float
    wait: float
    loader_share: float


def measure(
    module: L.LightningModule, data: SRDataModule, batches: int, trainer: Callable[..., L.Trainer]
) -> Throughput:
    """Load ``batches`` batches, then train on as many, each after `WARMUP` batches.

    Args:
        module: the module to train; training changes it.
        data: the data, with at least ``batches`` + `WARMUP` iterations.
        batches: number of measured batches, at least 2.
        trainer: creates the trainer from ``callbacks`` and ``max_steps``.

    Raises:
        UserError: if ``batches`` is smaller than 2.
    """
    if batches < 2:
        raise UserError(f"batches must be at least 2, got {batches}")
    data.prepare("fit")
    data.setup("fit")
    load = seconds_per_batch(data, batches)
    clock = StepClock()
    trainer(callbacks=[clock], max_steps=WARMUP + batches).fit(module, datamodule=data)
    begins, ends = clock.begins[WARMUP:], clock.ends[WARMUP - 1 :]
    step = statistics.median(b - a for a, b in pairwise(ends))
    wait = statistics.median(begin - end for begin, end in zip(begins, ends, strict=False))
    return Throughput(
        batch_size=data.batch_size,
        workers=data.workers,
        loader_images_s=data.batch_size / load,
        step_images_s=data.batch_size / step,
        wait=wait / step,
        loader_share=load / step,
    )


def seconds_per_batch(data: SRDataModule, batches: int) -> float:
    """Return the seconds that the training loader alone takes per batch."""
    loader = iter(data.train_dataloader())
    for _ in islice(loader, WARMUP):
        pass
    start = time.perf_counter()
    count = sum(1 for _ in islice(loader, batches))
    return (time.perf_counter() - start) / count


class StepClock(L.Callback):
    """A callback that records the start and end of each training batch, including the device's work.

    Attributes:
        begins, ends: times in seconds, one per batch.
    """

    def __init__(self) -> None:
        self.begins: list[float] = []
        self.ends: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self.begins.append(now(trainer.strategy.root_device))

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.ends.append(now(trainer.strategy.root_device))
