"""Learning-rate schedules."""

from __future__ import annotations

from torch import Tensor
from torch.optim import lr_scheduler


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
