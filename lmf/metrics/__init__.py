"""Picture quality by the protocols of the field: functions, and torchmetrics around them."""

from lmf.errors import needed
from lmf.metrics.functional import Protocol, psnr, ssim

with needed("train"):
    from lmf.metrics.image import PSNR, SSIM

__all__ = ["PSNR", "SSIM", "Protocol", "psnr", "ssim"]
