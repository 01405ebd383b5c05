"""Encoders map an image to features; one method per file."""

from lmf.encoders.base import Encoder
from lmf.encoders.edsr import EDSR
from lmf.encoders.identity import Identity
from lmf.encoders.rdn import RDN
from lmf.encoders.swinir import SwinIR

__all__ = ["EDSR", "RDN", "Encoder", "Identity", "SwinIR"]
