"""How fast training goes, and what share of it goes by without the model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

from lmf.benchmark.timing import synchronize
from lmf.data import SRDataModule
from lmf.errors import UserError, needed

with needed("train"):
    import lightning as L

WARMUP = 5  # batches


@dataclass
class Throughput:
    """Attributes:
    batch_size: over all devices.
    workers: processes that make samples.
    loader_images_s: samples a second of the loader by itself.
    step_images_s: samples a second of training.
    wait: share of a training step between the end of one batch and the start of the next: waiting for the loader,
        moving, augmenting.
    loader_share: time the loader needs for a batch over that of a step. Above 1 it is the bottleneck.
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
    """Loads ``batches`` batches, then trains on as many, after a few of either to warm up.

    Args:
        module: what is trained; it ends up trained so far.
        data: of at least ``batches`` + `WARMUP` iterations.
        trainer: makes the trainer from ``callbacks`` and ``max_steps``.
    """
    if batches < 2:
        raise UserError(f"batches must be at least 2, got {batches}")
    data.prepare_data()
    data.setup("fit")
    alone = seconds_per_batch(data, batches)
    clock = StepClock()
    trainer(callbacks=[clock], max_steps=WARMUP + batches).fit(module, datamodule=data)
    begins, ends = clock.begins[WARMUP:], clock.ends[WARMUP - 1 :]
    step = statistics.median(b - a for a, b in pairwise(ends))
    wait = statistics.median(begin - end for begin, end in zip(begins, ends, strict=False))
    return Throughput(
        batch_size=data.batch_size,
        workers=data.workers,
        loader_images_s=data.batch_size / alone,
        step_images_s=data.batch_size / step,
        wait=wait / step,
        loader_share=alone / step,
    )


def seconds_per_batch(data: SRDataModule, batches: int) -> float:
    """What the training loader takes for a batch when nobody else works."""
    loader = iter(data.train_dataloader())
    for _ in islice(loader, WARMUP):
        pass
    start = time.perf_counter()
    count = sum(1 for _ in islice(loader, batches))
    return (time.perf_counter() - start) / count


class StepClock(L.Callback):
    """Notes when each training batch begins and ends, the device's work included."""

    def __init__(self) -> None:
        self.begins: list[float] = []
        self.ends: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self.begins.append(self.now(trainer))

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.ends.append(self.now(trainer))

    def now(self, trainer: L.Trainer) -> float:
        synchronize(trainer.strategy.root_device)
        return time.perf_counter()
