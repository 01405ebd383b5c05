"""Picture quality and cost. `lmf.metrics.cost` is imported by name: it needs a model, quality does not."""

from lmf.metrics.functional import Protocol, psnr, ssim
from lmf.metrics.image import PSNR, SSIM

__all__ = ["PSNR", "SSIM", "Protocol", "psnr", "ssim"]
