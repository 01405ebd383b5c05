"""Checkpoints to resume from, and signals that end a run without losing what it has learnt."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from lmf.errors import UserError
from lmf.training.ranks import is_rank_zero

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ResumeCheckpoint(Checkpoint):
    """Saves a checkpoint to resume from every so many steps, before validations and when a signal asks to stop.

    On SIGTERM or SIGINT (Ctrl-C) the current training step is finished and saved, and the process exits with status
    128 + the number of the signal, as schedulers expect. Outside training steps there is nothing to save, and it exits
    at once; so it does on a second signal. All ranks stop after the same step.

    A run that was stopped during a validation repeats the whole validation when it is resumed, so that the best
    checkpoint is chosen among the same weights as in an uninterrupted run.

    The base class makes Lightning call this callback after all that change weights.

    Args:
        path: the checkpoint, which is overwritten.
        every_n_train_steps: how often to save, in optimiser steps.
    """

    def __init__(self, path: str | os.PathLike[str], every_n_train_steps: int) -> None:
        if every_n_train_steps < 1:
            raise UserError(f"every_n_train_steps must be at least 1, got {every_n_train_steps}")
        self.path = Path(path)
        self.every = every_n_train_steps
        self.steps = 0  # taken when the last batch ended
        self.received = 0  # number of the signal that asked to stop

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        loop = checkpoint["loops"]["fit_loop"]
        batches = loop["epoch_loop.batch_progress"]
        epoch_trained = batches["is_last_batch"] and batches["current"]["completed"] < batches["current"]["ready"]
        if epoch_trained and validates_after(trainer, epoch=loop["epoch_progress"]["current"]["completed"]):
            # Lightning would go on with the next epoch. Make it believe that the first batch of the validation had
            # begun: it repeats that batch, and so all of them.
            for progress in ("total", "current"):
                batches[progress]["completed"] = batches[progress]["ready"]
                loop["epoch_loop.val_loop.batch_progress"][progress] |= {
                    "ready": 1,
                    "started": 1,
                    "processed": 0,
                    "completed": 0,
                }

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.received = 0
        self.listen(trainer, signal.SIGINT)  # before data loaders fork, so that Ctrl-C does not end them

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.steps = trainer.global_step
        self.listen(trainer, signal.SIGTERM)  # after Lightning, which handles it too; in the end it restores both

    def listen(self, trainer: L.Trainer, number: signal.Signals) -> None:
        """Handles the signal ``number`` from now on."""

        def handle(number: int, frame: FrameType | None) -> None:
            if not self.received and trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(number)
            if self.received or not trainer.training:
                raise SystemExit(status(trainer, number))
            self.received = number

        signal.signal(number, handle)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.steps:
            return  # gradients are being accumulated, and checkpoints do not hold them
        self.steps = trainer.global_step
        stop = self.agreed(trainer)
        validates = trainer.is_last_batch and validates_after(trainer, trainer.current_epoch)
        if stop or validates or self.steps % self.every == 0:
            trainer.save_checkpoint(self.path)
        if stop:
            self.exit(trainer, stop)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.received:  # since the last step, which has been saved
            self.exit(trainer, self.received)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.received:
            self.exit(trainer, self.received)

    def agreed(self, trainer: L.Trainer) -> int:
        """The signal that any of the ranks received, or 0."""
        if trainer.world_size == 1:
            return self.received
        received = torch.tensor(self.received, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(received, reduce_op="max"))

    def exit(self, trainer: L.Trainer, number: int) -> None:
        if is_rank_zero():
            log.warning(f"{signal.Signals(number).name}: stopped after step {self.steps}; resume from {self.path}")
        raise SystemExit(status(trainer, number))


def status(trainer: L.Trainer, number: int) -> int:
    """The exit status after a signal. Other ranks end quietly, or Lightning would kill the first one for them."""
    return 128 + number if trainer.local_rank == 0 else 0


def validates_after(trainer: L.Trainer, epoch: int) -> bool:
    """Whether a validation follows ``epoch``, counted from 0."""
    every = trainer.check_val_every_n_epoch
    return trainer.enable_validation and every is not None and (epoch + 1) % every == 0
