"""Logs the health of a training: learning rate, gradient norm, speed, the loader's share of the time, and memory."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.profilers import PassThroughProfiler
from torch import Tensor, nn
from torch.optim import Optimizer

from lmf.memory import process_memory

NEXT_BATCH = "[_TrainingEpochLoop].train_dataloader_next"  # Lightning's name of what fetches a batch


class LoaderClock(PassThroughProfiler):
    """A profiler that only adds up the seconds that training waits for batches.

    Attributes:
        seconds: the sum so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self.since = 0.0

    def start(self, action_name: str) -> None:
        """Note the time at which the next batch is asked for."""
        if action_name == NEXT_BATCH:
            self.since = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Add the time since then."""
        if action_name == NEXT_BATCH:
            self.seconds += time.perf_counter() - self.since


class HealthCallback(L.Callback):
    """Logs how a training is doing, at the trainer's logging intervals (``trainer.log_every_n_steps``).

    - ``train/lr``: learning rate of the step.
    - ``train/grad_norm``: 2-norm of all gradients before clipping.
    - ``train/images_s``: training samples per second over all processes since the last interval, without validations.
    - ``train/loader_share``: share of this time that the process waited for the loader.
    - ``memory/process_gib``: resident memory of the process; ``memory/gpu_gib``: largest memory of its tensors.

    All but ``images_s`` are those of the logging process. Between intervals the callback only reads the clock; it never
    waits for the device and draws no random numbers. With a profiler in the trainer, ``loader_share`` is left out.
    """

    def __init__(self) -> None:
        self.clock: LoaderClock | None = None
        self.images = 0  # since the last interval
        self.start = 0.0  # of the interval; validations move it
        self.waited = 0.0  # the clock's seconds at the start of the interval
        self.paused = 0.0  # time at which a validation began
        self.due = False  # whether Lightning logs the values of this step

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Time the loader unless the trainer has a profiler already."""
        profiled: Any = trainer  # whose profiler its class does not declare
        if stage == "fit" and type(profiled.profiler) is PassThroughProfiler:
            self.clock = profiled.profiler = LoaderClock()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the first interval."""
        self.begin()

    def begin(self) -> None:
        """Start an interval."""
        self.images = 0
        self.start = time.perf_counter()
        self.waited = self.clock.seconds if self.clock else 0.0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self.paused = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the clock run again."""
        self.start += time.perf_counter() - self.paused

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Log the learning rate and the gradient norm at a logging interval."""
        self.due = bool(trainer._logger_connector.should_update_logs)
        if self.due:
            pl_module.log("train/lr", optimizer.param_groups[0]["lr"])
            pl_module.log("train/grad_norm", gradient_norm(pl_module))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the samples; log speed and memory at a logging interval."""
        self.images += len(batch["lr"])
        if not self.due:
            return
        self.due = False
        seconds = time.perf_counter() - self.start
        values = {"train/images_s": self.images * trainer.world_size / seconds}
        if self.clock:
            values["train/loader_share"] = (self.clock.seconds - self.waited) / seconds
        if (resident := process_memory()) is not None:
            values["memory/process_gib"] = resident / 2**30
        if pl_module.device.type == "cuda":
            values["memory/gpu_gib"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
        pl_module.log_dict(values)
        self.begin()


def gradient_norm(module: nn.Module) -> Tensor:
    """Return the 2-norm of all gradients of ``module`` as a tensor on their device."""
    return nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
