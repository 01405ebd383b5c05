"""Latent Modulated Functions: arbitrary-scale super-resolution."""

from lmf.checkpoint import CheckpointError, build, list_models, load, load_descriptor, read_card, save
from lmf.errors import UserError
from lmf.io import ImageError
from lmf.model import Enlargement, SRModel

__version__ = "0.2.0"
__all__ = [
    "CheckpointError",
    "Enlargement",
    "ImageError",
    "SRModel",
    "UserError",
    "__version__",
    "build",
    "list_models",
    "load",
    "load_descriptor",
    "read_card",
    "save",
]
