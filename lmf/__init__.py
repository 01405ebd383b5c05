"""Latent Modulated Functions: arbitrary-scale super-resolution."""

from lmf.checkpoint import list_models, load, save
from lmf.model import SRModel

__all__ = ["SRModel", "list_models", "load", "save"]
__version__ = "0.2.0"
