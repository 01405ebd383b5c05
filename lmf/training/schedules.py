"""Learning-rate schedules."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer, lr_scheduler


class OneCycleLR(lr_scheduler.OneCycleLR):
    """One cycle (Smith & Topin, 2017) that stays at its lowest rate.

    PyTorch's own raises the rate again in the step after the last one, which trainers take and checkpoints record.
    Arguments are those of `torch.optim.lr_scheduler.OneCycleLR`.
    """

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of every parameter group."""
        if self.last_epoch >= self.total_steps:
            return [group["min_lr"] for group in self.optimizer.param_groups]
        return super().get_lr()


class WarmupCosineLR(lr_scheduler.LRScheduler):
    """A linear warm-up to the optimiser's rate, then half a cosine down to 0.

    Args:
        optimizer: the optimiser.
        warmup: epochs, or steps, after which the rate is largest.
        total: epochs, or steps, after which it is 0.
        start: rate at the beginning, as a share of the largest.
    """

    def __init__(self, optimizer: Optimizer, warmup: int, total: int, start: float = 0.1) -> None:
        self.warmup, self.total, self.start = warmup, total, start
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of every parameter group."""
        now = self.last_epoch
        if now < self.warmup:
            factor = self.start + (1 - self.start) * now / self.warmup
        else:
            done = min(1.0, (now - self.warmup) / max(1, self.total - self.warmup))
            factor = (1 + math.cos(math.pi * done)) / 2
        return [rate * factor for rate in self.base_lrs]
