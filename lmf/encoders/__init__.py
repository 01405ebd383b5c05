"""Encoders: image to features, one method per file."""

from lmf.encoders.base import Encoder
from lmf.encoders.edsr import EDSR
from lmf.encoders.identity import Identity

__all__ = ["EDSR", "Encoder", "Identity"]
