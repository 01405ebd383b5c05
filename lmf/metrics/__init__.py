"""Picture quality by the protocols of the field: functions, and torchmetrics around them."""

from lmf.metrics.functional import Protocol, psnr, ssim
from lmf.metrics.image import PSNR, SSIM

__all__ = ["PSNR", "SSIM", "Protocol", "psnr", "ssim"]
