"""Metrics over sets of pictures: means of per-picture values that are exact for any number of processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lmf.metrics.functional import Protocol, precise, protocol_options, psnr, ssim


class PictureMean(Metric):
    """Base class of metrics that average a function of each picture over all pictures and processes.

    A process may see any number of pictures, including none.

    Args:
        protocol: ``"div2k"``, ``"benchmark"`` or ``"raw"``; see `lmf.metrics.functional.protocol_options`.
        scale: factor of the enlargement, which determines the excluded border.
        options: options of `torchmetrics.Metric`.

    Raises:
        UserError: if ``protocol`` is unknown or ``scale`` is not a positive number.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    measure: Callable[..., Tensor]

    total: Tensor
    count: Tensor

    def __init__(self, protocol: Protocol = "raw", scale: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.space, self.shave = protocol_options(protocol, scale)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def update_called(self) -> bool:
        """Always true, because a process without pictures is no reason for torchmetrics' warning."""
        return True

    def update(self, sr: Tensor, hr: Tensor) -> None:
        """Add the pictures ``sr`` (B, 3, H, W) in [0, 1], compared with the references ``hr`` of the same shape.

        Raises:
            ValueError: if the shapes differ, or too few pixels are left inside the border.
        """
        self.add(self.measure(sr, hr, space=self.space, shave=self.shave))

    def add(self, values: Tensor) -> None:
        """Add the ``values`` (B,) of pictures that were measured before."""
        self.total += values.to(self.total).sum()
        self.count += len(values)

    def compute(self) -> Tensor:
        """Return the mean over all pictures of all processes, a scalar; NaN if there were none."""
        return self.total / self.count

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Any = "") -> Any:
        """Move the sums to the device of the module but keep their dtype, which bfloat16 training would round."""
        super()._apply(fn, ("total", "count"))
        device = fn(torch.zeros(1, device=self.total.device)).device
        for name, dtype in (("total", precise(device)), ("count", torch.int64)):
            setattr(self, name, getattr(self, name).to(device, dtype))
            self._defaults[name] = torch.zeros((), device=device, dtype=dtype)
        return self


class PSNR(PictureMean):
    """Mean PSNR over pictures in dB (not the PSNR of pooled errors); inf if that of any picture is inf.

    Args: see `PictureMean`.
    """

    measure = staticmethod(psnr)


class SSIM(PictureMean):
    """Mean SSIM over pictures.

    Args: see `PictureMean`.
    """

    measure = staticmethod(ssim)
