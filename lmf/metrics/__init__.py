"""PSNR and SSIM by the evaluation protocols of the field and measures of faults, as functions and as metrics."""

from lmf.errors import needed
from lmf.metrics.functional import Protocol, colour_share, psnr, raw_max, ssim

with needed("train"):
    from lmf.metrics.image import PSNR, SSIM, ColourShare, RawMax

__all__ = ["PSNR", "SSIM", "ColourShare", "Protocol", "RawMax", "colour_share", "psnr", "raw_max", "ssim"]
