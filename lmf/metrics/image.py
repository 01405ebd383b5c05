"""Metrics over sets of pictures, exact for any number of processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics import Metric

from lmf.metrics.functional import Protocol, colour_share, precise, protocol_options, psnr, raw_max, ssim


class PictureMetric(Metric):
    """Base class of metrics over all pictures of all processes. A process may see any number of them, including none.

    Args:
        options: options of `torchmetrics.Metric`.
    """

    is_differentiable = False
    full_state_update = False

    @property
    def update_called(self) -> bool:
        """Always true, because a process without pictures is no reason for torchmetrics' warning."""
        return True

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Any = "") -> Any:
        """Move the states to the device of the module but keep their dtype, which bfloat16 training would round."""
        super()._apply(fn, tuple(self._defaults))
        for name, default in self._defaults.items():
            state = getattr(self, name)
            device = fn(torch.zeros(1, device=state.device)).device
            dtype = precise(device) if state.is_floating_point() else state.dtype
            setattr(self, name, state.to(device, dtype))
            self._defaults[name] = cast(Tensor, default).to(device, dtype)
        return self


class PictureMean(PictureMetric):
    """Base class of metrics that average a function of each picture over all pictures and processes.

    Args:
        protocol: ``"div2k"``, ``"benchmark"`` or ``"raw"``; see `lmf.metrics.functional.protocol_options`.
        scale: factor of the enlargement, which determines the excluded border.
        options: options of `torchmetrics.Metric`.

    Raises:
        UserError: if ``protocol`` is unknown or ``scale`` is not a positive number.
    """

    higher_is_better = True
    measure: Callable[..., Tensor]

    total: Tensor
    count: Tensor

    def __init__(self, protocol: Protocol = "raw", scale: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.space, self.shave = protocol_options(protocol, scale)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, sr: Tensor, hr: Tensor) -> None:
        """Add the pictures ``sr`` (B, 3, H, W) in [0, 1], compared with the references ``hr`` of the same shape.

        Raises:
            ValueError: if the shapes differ, or too few pixels are left inside the border.
        """
        values = self.measure(sr, hr, space=self.space, shave=self.shave)
        self.total += values.sum()
        self.count += len(values)

    def compute(self) -> Tensor:
        """Return the mean over all pictures of all processes, a scalar; NaN if there were none."""
        return self.total / self.count


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


class ColourShare(PictureMetric):
    """Mean share of coloured pixels over the pictures whose reference is grey; see `lmf.metrics.colour_share`.

    Args:
        options: options of `torchmetrics.Metric`.
    """

    higher_is_better = False

    total: Tensor
    count: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, sr: Tensor, hr: Tensor) -> None:
        """Add the pictures ``sr`` (B, 3, H, W) in [0, 1] with the references ``hr`` of the same shape.

        Raises:
            ValueError: if the shapes differ.
        """
        shares = colour_share(sr, hr)
        grey = ~shares.isnan()
        self.total += shares[grey].sum()
        self.count += grey.sum()

    def compute(self) -> Tensor:
        """Return the mean over all grey pictures of all processes, a scalar; NaN if there were none."""
        return self.total / self.count


class RawMax(PictureMetric):
    """Largest absolute output in network units over all pictures; see `lmf.metrics.raw_max`.

    Args:
        options: options of `torchmetrics.Metric`.
    """

    higher_is_better = False

    largest: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("largest", torch.zeros((), dtype=torch.float64), dist_reduce_fx="max")

    def update(self, sr: Tensor, hr: Tensor) -> None:
        """Add the outputs ``sr`` (B, 3, H, W), not clamped, with 0 as black and 1 as white; ``hr`` is not used."""
        self.largest = torch.maximum(self.largest, raw_max(sr).max().to(self.largest.dtype))  # keeps NaN

    def compute(self) -> Tensor:
        """Return the largest absolute output of all processes, a scalar; 0 if there were no pictures."""
        return self.largest
