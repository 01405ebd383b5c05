"""Latent Modulated Functions: arbitrary-scale super-resolution."""

from lmf.model import SRModel

__all__ = ["SRModel"]
__version__ = "0.1.0"
