"""PSNR and SSIM of two batches of pictures, and measures of faults.

Luma is studio-range BT.601 as in MATLAB's ``rgb2ycbcr``: ``16 + 65.481 R + 128.553 G + 24.966 B`` for colours in
[0, 1], divided by 255. The weights (65.738, 129.057, 25.064) / 256 in some papers are the same.
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
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03  # SSIM, Wang et al., 2004
COLOURED = 32 / 255  # difference of channels that is plainly visible on grey


def protocol_options(protocol: Protocol, scale: float) -> tuple[Space, int]:
    """Return the colour space and the border width of an evaluation protocol.

    Args:
        protocol: ``"div2k"`` (RGB without a border of ceil(scale) + 6), ``"benchmark"`` for Set5, Set14, B100 and
            Urban100 (luma without a border of ceil(scale)), or ``"raw"`` (RGB, the whole picture).
        scale: positive factor of the enlargement.

    Returns:
        ``"rgb"`` or ``"y"``, and the border in HR pixels.

    Raises:
        UserError: if ``protocol`` is unknown or ``scale`` is not a positive number.
    """
    if protocol not in get_args(Protocol):
        raise UserError(f"protocol must be one of {get_args(Protocol)}, got {protocol!r}")
    if not (math.isfinite(scale) and scale > 0):
        raise UserError(f"scale must be a positive number, got {scale}")
    if protocol == "raw":
        return "rgb", 0
    return ("rgb", math.ceil(scale) + 6) if protocol == "div2k" else ("y", math.ceil(scale))


def psnr(sr: Tensor, hr: Tensor, *, space: Space = "rgb", shave: int = 0) -> Tensor:
    """Compute the peak signal-to-noise ratio of each picture in dB, ``-10 log10(mean squared difference)``.

    Args:
        sr: (B, 3, H, W) pictures in [0, 1]. Values outside are clamped.
        hr: (B, 3, H, W) reference pictures in [0, 1], clamped too.
        space: ``"rgb"`` averages over all three channels, ``"y"`` compares luma only.
        shave: width in pixels of the border that is excluded on every side.

    Returns:
        (B,) float64, or float32 on devices without float64. The value of identical pictures is inf, which is neither
        capped nor excluded from means.

    Raises:
        ValueError: if the shapes differ or are not (B, 3, H, W), or if the border covers the picture.
    """
    sr, hr = prepare(sr, hr, space, shave, smallest=1)
    return -10 * (sr - hr).square().mean(dim=(1, 2, 3)).log10()


def ssim(sr: Tensor, hr: Tensor, *, space: Space = "rgb", shave: int = 0) -> Tensor:
    """Compute the structural similarity of each picture (Wang et al., 2004).

    The window is an 11 x 11 Gaussian of sigma 1.5 at all positions where it fits into the picture (MATLAB's "valid").
    K1 is 0.01, K2 is 0.03 and the dynamic range is 1. The result is the mean over positions, and over channels for
    ``"rgb"``.

    Args:
        sr: (B, 3, H, W) pictures in [0, 1]. Values outside are clamped.
        hr: (B, 3, H, W) reference pictures in [0, 1], clamped too.
        space: ``"rgb"`` averages over all three channels, ``"y"`` compares luma only.
        shave: width in pixels of the border that is excluded on every side.

    Returns:
        (B,) float64, or float32 on devices without float64; 1 for identical pictures.

    Raises:
        ValueError: if the shapes differ or are not (B, 3, H, W), or if fewer than 11 x 11 pixels are left inside the
            border.
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


def colour_share(sr: Tensor, hr: Tensor) -> Tensor:
    """Compute the share of coloured pixels of each picture whose reference is grey.

    A pixel counts as coloured if its largest channel exceeds its smallest by more than `COLOURED`, after clamping. An
    enlargement of a grey picture should have none.

    Args:
        sr: (B, 3, H, W) pictures in [0, 1]. Values outside are clamped.
        hr: (B, 3, H, W) reference pictures.

    Returns:
        (B,) shares in [0, 1]; NaN where the three channels of the reference are not equal.

    Raises:
        ValueError: if the shapes differ or are not (B, 3, H, W).
    """
    check_shapes(sr, hr)
    spread = sr.clamp(0, 1).amax(dim=1) - sr.clamp(0, 1).amin(dim=1)  # (B, H, W)
    share = (spread > COLOURED).to(precise(sr.device)).mean(dim=(1, 2))
    return share.where((hr == hr[:, :1]).all(dim=(1, 2, 3)), math.nan)


def raw_max(sr: Tensor) -> Tensor:
    """Compute the largest absolute output of each picture in network units, where -1 is black and 1 is white.

    Args:
        sr: (B, C, H, W) outputs that are not clamped, with 0 as black and 1 as white.

    Returns:
        (B,), at least 1 for pictures that contain black or white; NaN if an output is NaN.
    """
    return (2 * sr - 1).abs().amax(dim=(1, 2, 3))


def prepare(sr: Tensor, hr: Tensor, space: Space, shave: int, smallest: int) -> tuple[Tensor, Tensor]:
    """Check, crop, clamp and convert two batches of pictures.

    Args:
        sr, hr, space, shave: see `psnr`.
        smallest: least height and width inside the border.

    Returns:
        Two tensors (B, C, H - 2 shave, W - 2 shave) in the widest float of the device.

    Raises:
        ValueError: see `psnr`.
    """
    check_shapes(sr, hr)
    if space not in get_args(Space):
        raise ValueError(f"space must be one of {get_args(Space)}, got {space!r}")
    h, w = sr.shape[-2:]
    if shave < 0 or min(h, w) - 2 * shave < smallest:
        raise UserError(
            f"a {h} x {w} picture without a border of {shave} pixels is {h - 2 * shave} x {w - 2 * shave}; "
            f"at least {smallest} x {smallest} must be left, and the border must not be negative"
        )
    a, b = (x[..., shave : h - shave, shave : w - shave].to(precise(x.device)).clamp(0, 1) for x in (sr, hr))
    return (luma(a), luma(b)) if space == "y" else (a, b)


def check_shapes(sr: Tensor, hr: Tensor) -> None:
    """Check that two batches of pictures can be compared.

    Raises:
        ValueError: if the shapes differ or are not (B, 3, H, W).
    """
    if sr.shape != hr.shape:
        raise ValueError(f"pictures to compare must have the same shape, got {tuple(sr.shape)} and {tuple(hr.shape)}")
    if sr.ndim != 4 or sr.shape[1] != 3:
        raise ValueError(f"pictures must be (B, 3, H, W), got {tuple(sr.shape)}")


def precise(device: torch.device) -> torch.dtype:
    """Return the widest floating-point type of a device."""
    return torch.float32 if device.type == "mps" else torch.float64


def luma(rgb: Tensor) -> Tensor:
    """Convert RGB (B, 3, H, W) in [0, 1] to studio-range luma (B, 1, H, W) in [16, 235] / 255."""
    return (rgb * rgb.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True) + LUMA_OFFSET


def blur(x: Tensor) -> Tensor:
    """Compute Gaussian means (B, C, H - 10, W - 10) of ``x`` (B, C, H, W), one axis after the other.

    The means are sums of slices. On a CPU, float64 convolutions would need eleven times the memory of the picture.
    """
    taps = [math.exp(-0.5 * ((i - WINDOW // 2) / SIGMA) ** 2) for i in range(WINDOW)]
    for dim in (-2, -1):
        n = x.shape[dim] - WINDOW + 1
        out = torch.zeros_like(x.narrow(dim, 0, n))
        for i, tap in enumerate(taps):
            out.add_(x.narrow(dim, i, n), alpha=tap / sum(taps))
        x = out
    return x
