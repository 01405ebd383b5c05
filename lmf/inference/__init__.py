"""Enlarges picture files and folders in bounded memory."""

from lmf.inference.files import upscale_files
from lmf.inference.tiling import bands

__all__ = ["bands", "upscale_files"]
