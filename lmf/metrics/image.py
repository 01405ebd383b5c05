"""Metrics over sets of pictures: the mean of the per-picture values, exact on any number of processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lmf.metrics.functional import Protocol, precise, protocol_options, psnr, ssim


class PictureMean(Metric):
    """Sum and number of pictures, summed over processes, of which each may see any number, none included.

    Args:
        protocol: ``"div2k"``, ``"benchmark"`` or ``"raw"``; see `lmf.metrics.functional.protocol_options`.
        scale: of the enlargement; it sets the border left out.
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
        """Always true: torchmetrics' warning does not apply where a process may rightly see no picture."""
        return True

    def update(self, sr: Tensor, hr: Tensor) -> None:
        """``sr`` and ``hr`` are (B, 3, H, W) in [0, 1]; errors as the function's."""
        values = self.measure(sr, hr, space=self.space, shave=self.shave)
        self.total += values.sum()
        self.count += len(values)

    def compute(self) -> Tensor:
        """Mean over all pictures so far, of all processes; nan if there were none."""
        return self.total / self.count

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Any = "") -> Any:
        """Follows the module to its device but not to its dtype: bfloat16 training must not round the sums."""
        super()._apply(fn, ("total", "count"))
        device = fn(torch.zeros(1, device=self.total.device)).device
        for name, dtype in (("total", precise(device)), ("count", torch.int64)):
            setattr(self, name, getattr(self, name).to(device, dtype))
            self._defaults[name] = torch.zeros((), device=device, dtype=dtype)
        return self


class PSNR(PictureMean):
    """Mean of `lmf.metrics.psnr` over pictures (not the PSNR of pooled errors); inf if any picture's is."""

    measure = staticmethod(psnr)


class SSIM(PictureMean):
    """Mean of `lmf.metrics.ssim` over pictures."""

    measure = staticmethod(ssim)
