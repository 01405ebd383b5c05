"""PSNR and SSIM as the field reports them: pure functions of two batches of pictures.

The luma of both is studio-range BT.601, ``16 + 65.481 R + 128.553 G + 24.966 B`` for colours in [0, 1] (MATLAB's
``rgb2ycbcr``), divided by 255; papers that have the weights as (65.738, 129.057, 25.064) / 256 mean the same.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from lmf.errors import UserError

Space = Literal["rgb", "y"]
Protocol = Literal["div2k", "benchmark", "raw"]

LUMA = (65.738 / 256, 129.057 / 256, 25.064 / 256)
LUMA_OFFSET = 16 / 255
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03  # Wang et al., 2004


def protocol_options(protocol: Protocol, scale: float) -> tuple[Space, int]:
    """Colour space and border width (HR pixels) of a ``protocol`` at ``scale``, fractions rounded up.

    ``div2k``: RGB, ceil(scale) + 6. ``benchmark`` (Set5, Set14, B100, Urban100): luma, ceil(scale). ``raw``: RGB,
    the whole picture.
    """
    if protocol not in get_args(Protocol):
        raise UserError(f"protocol must be one of {get_args(Protocol)}, got {protocol!r}")
    if not (math.isfinite(scale) and scale > 0):
        raise UserError(f"scale must be a positive number, got {scale}")
    if protocol == "raw":
        return "rgb", 0
    return ("rgb", math.ceil(scale) + 6) if protocol == "div2k" else ("y", math.ceil(scale))


def psnr(sr: Tensor, hr: Tensor, *, space: Space = "rgb", shave: int = 0) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB: ``-10 log10(mean squared difference)``.

    Args:
        sr, hr: (B, 3, H, W) in [0, 1]; clamped to it.
        space: ``"rgb"``: the mean is over all three channels; ``"y"``: luma alone.
        shave: border left out on every side, in pixels.

    Returns:
        (B,) float64 (float32 on devices without it). Identical pictures have inf, and so then has any mean over
        them: infinity is the true value, and no picture is quietly left out or capped.

    Raises:
        ValueError: shapes that differ or are not (B, 3, H, W), or nothing left inside the border.
    """
    sr, hr = prepare(sr, hr, space, shave, smallest=1)
    return -10 * (sr - hr).square().mean(dim=(1, 2, 3)).log10()


def ssim(sr: Tensor, hr: Tensor, *, space: Space = "rgb", shave: int = 0) -> Tensor:
    """Structural similarity of each picture (Wang et al., 2004), 1 for identical ones.

    11 x 11 Gaussian window of sigma 1.5 wherever it fits entirely (MATLAB's "valid"), K1 = 0.01, K2 = 0.03, on a
    range of 1; the mean over positions, and over channels for ``"rgb"``. Arguments and errors as `psnr`; inside
    the border at least 11 x 11 pixels must be left.
    """
    sr, hr = prepare(sr, hr, space, shave, smallest=WINDOW)
    mean_sr, mean_hr = blur(sr), blur(hr)
    var_sr = blur(sr * sr) - mean_sr**2
    var_hr = blur(hr * hr) - mean_hr**2
    covariance = blur(sr * hr) - mean_sr * mean_hr
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_sr * mean_hr + c1) / (mean_sr**2 + mean_hr**2 + c1)
    structure = (2 * covariance + c2) / (var_sr + var_hr + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def prepare(sr: Tensor, hr: Tensor, space: Space, shave: int, smallest: int) -> tuple[Tensor, Tensor]:
    """Both pictures clamped, in ``space``, (B, C, H - 2 shave, W - 2 shave), as precise as the device allows."""
    if sr.shape != hr.shape:
        raise ValueError(f"pictures to compare must have one shape, got {tuple(sr.shape)} and {tuple(hr.shape)}")
    if sr.ndim != 4 or sr.shape[1] != 3:
        raise ValueError(f"pictures must be (B, 3, H, W), got {tuple(sr.shape)}")
    if space not in get_args(Space):
        raise ValueError(f"space must be one of {get_args(Space)}, got {space!r}")
    h, w = sr.shape[-2:]
    if shave < 0 or min(h, w) - 2 * shave < smallest:
        raise UserError(
            f"a {h} x {w} picture without a border of {shave} pixels is {h - 2 * shave} x {w - 2 * shave}; "
            f"at least {smallest} x {smallest} must be left and the border cannot be negative"
        )
    a, b = (x[..., shave : h - shave, shave : w - shave].to(precise(x.device)).clamp(0, 1) for x in (sr, hr))
    return (luma(a), luma(b)) if space == "y" else (a, b)


def precise(device: torch.device) -> torch.dtype:
    """The widest float of a device."""
    return torch.float32 if device.type == "mps" else torch.float64


def luma(rgb: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] to studio-range luma (B, 1, H, W) in [16, 235] / 255."""
    return (rgb * rgb.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True) + LUMA_OFFSET


def blur(x: Tensor) -> Tensor:
    """Gaussian means (B, C, H - 10, W - 10) of ``x`` (B, C, H, W), one axis after the other.

    Sums of slices, not convolutions: in float64 those would unfold the picture elevenfold on a CPU.
    """
    taps = [math.exp(-0.5 * ((i - WINDOW // 2) / SIGMA) ** 2) for i in range(WINDOW)]
    for dim in (-2, -1):
        n = x.shape[dim] - WINDOW + 1
        out = torch.zeros_like(x.narrow(dim, 0, n))
        for i, tap in enumerate(taps):
            out.add_(x.narrow(dim, i, n), alpha=tap / sum(taps))
        x = out
    return x
