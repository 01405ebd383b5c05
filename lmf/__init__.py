"""Latent Modulated Functions: arbitrary-scale super-resolution."""

from lmf.checkpoint import load
from lmf.model import SRModel

__all__ = ["SRModel", "load"]
__version__ = "0.1.0"
