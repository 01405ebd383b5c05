"""Saves checkpoints to resume from, and stops a run on signals without losing progress."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from lmf.errors import UserError
from lmf.training.ranks import is_rank_zero

log = logging.getLogger(__name__)

LEAVE = signal.SIGUSR1  # rank zero sends it to the ranks that Lightning has started when it exits at once
REPEAT = 1.0  # seconds within which a second signal is the same one: a launcher repeats what a terminal sends to all


class ResumeCheckpoint(Checkpoint):
    """Saves a checkpoint to resume from every few steps, before validations and on signals.

    On SIGTERM or SIGINT (Ctrl-C) the callback finishes the current training step, saves it and exits with status 128 +
    the number of the signal, as schedulers expect. Outside training steps and on a second signal, at least `REPEAT`
    seconds later, it exits at once. All ranks stop after the same step. Ranks that Lightning has started leave this to
    rank zero of their node, because a terminal sends Ctrl-C to all of them.

    A run that was stopped during a validation repeats the whole validation after resuming. The best checkpoint is
    therefore chosen among the same weights as in an uninterrupted run.

    The base class `Checkpoint` makes Lightning call this callback after all callbacks that change weights.

    Args:
        path: the checkpoint, which is overwritten.
        every_n_train_steps: optimiser steps between saves, at least 1.

    Raises:
        UserError: if ``every_n_train_steps`` is less than 1.
    """

    def __init__(self, path: str | os.PathLike[str], every_n_train_steps: int) -> None:
        if every_n_train_steps < 1:
            raise UserError(f"every_n_train_steps must be at least 1, got {every_n_train_steps}")
        self.path = Path(path)
        self.every = every_n_train_steps
        self.steps = 0  # optimiser steps at the end of the last batch
        self.received = 0  # number of the received signal
        self.since = 0.0  # time at which it was received, of `time.monotonic`

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Make Lightning repeat a validation that did not finish."""
        loop = checkpoint["loops"]["fit_loop"]
        batches = loop["epoch_loop.batch_progress"]
        epoch_trained = batches["is_last_batch"] and batches["current"]["completed"] < batches["current"]["ready"]
        if epoch_trained and validates_after(trainer, epoch=loop["epoch_progress"]["current"]["completed"]):
            # Lightning would continue with the next epoch. If the first batch of the validation counts as started,
            # Lightning repeats this batch and then runs all others.
            for progress in ("total", "current"):
                batches[progress]["completed"] = batches[progress]["ready"]
                loop["epoch_loop.val_loop.batch_progress"][progress] |= {
                    "ready": 1,
                    "started": 1,
                    "processed": 0,
                    "completed": 0,
                }

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Handle SIGINT."""
        self.received = 0
        if follows(trainer):
            signal.signal(LEAVE, leave)
        self.listen(trainer, signal.SIGINT)  # before data loaders fork, so that Ctrl-C does not end them

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Handle SIGTERM."""
        self.steps = trainer.global_step
        self.listen(trainer, signal.SIGTERM)  # after Lightning has set its handler; it restores both at the end

    def listen(self, trainer: L.Trainer, number: signal.Signals) -> None:
        """Install the handler of the signal ``number``."""

        def handle(number: int, frame: FrameType | None) -> None:
            again, now = self.received, time.monotonic()
            if again and now - self.since < REPEAT:
                return
            self.received, self.since = number, now
            if again or not trainer.training:
                if trainer.strategy.launcher is not None:
                    trainer.strategy.launcher.kill(LEAVE)
                raise SystemExit(status(trainer, number))

        signal.signal(number, signal.SIG_IGN if follows(trainer) else handle)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save a checkpoint if it is due, and exit if any rank has received a signal."""
        if trainer.global_step == self.steps:
            return  # gradients are being accumulated, which checkpoints do not contain
        self.steps = trainer.global_step
        stop = self.agreed(trainer)
        validates = trainer.is_last_batch and validates_after(trainer, trainer.current_epoch)
        if stop or validates or self.steps % self.every == 0:
            trainer.save_checkpoint(self.path)
        if stop:
            self.exit(trainer, stop)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Exit if a signal has arrived after the last step, which has been saved."""
        if self.received:
            self.exit(trainer, self.received)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Exit if a signal has arrived after the last step."""
        if self.received:
            self.exit(trainer, self.received)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Exit as after the signal if it has ended a data loader too, which raises before the step is complete."""
        if self.received and isinstance(exception, RuntimeError) and "DataLoader worker" in str(exception):
            self.exit(trainer, self.received)

    def agreed(self, trainer: L.Trainer) -> int:
        """Return the number of the signal that any rank has received, or 0."""
        if trainer.world_size == 1:
            return self.received
        received = torch.tensor(self.received, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(received, reduce_op="max"))

    def exit(self, trainer: L.Trainer, number: int) -> None:
        """Log how to resume and exit with the status of the signal ``number``."""
        if is_rank_zero():
            log.warning(f"{signal.Signals(number).name}: stopped after step {self.steps}; resume from {self.path}")
        raise SystemExit(status(trainer, number))


def follows(trainer: L.Trainer) -> bool:
    """Return whether Lightning has started this process, so that rank zero of the node decides when it stops."""
    return trainer.strategy.launcher is not None and trainer.local_rank > 0


def leave(number: int, frame: FrameType | None) -> None:
    """Exit at once, with a status that Lightning does not take for a failure."""
    raise SystemExit(0)


def status(trainer: L.Trainer, number: int) -> int:
    """Return the exit status after a signal: 128 + ``number`` on local rank zero, else 0.

    If another rank exits with an error, Lightning kills rank zero.
    """
    return 128 + number if trainer.local_rank == 0 else 0


def validates_after(trainer: L.Trainer, epoch: int) -> bool:
    """Return whether a validation follows ``epoch``, counted from 0."""
    every = trainer.check_val_every_n_epoch
    return trainer.enable_validation and every is not None and (epoch + 1) % every == 0
