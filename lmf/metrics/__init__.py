"""PSNR and SSIM by the evaluation protocols of the field, as functions and as torchmetrics metrics."""

from lmf.errors import needed
from lmf.metrics.functional import Protocol, psnr, ssim

with needed("train"):
    from lmf.metrics.image import PSNR, SSIM

__all__ = ["PSNR", "SSIM", "Protocol", "psnr", "ssim"]
