"""Decoders: features to colours at any coordinate, one method per file."""

from lmf.decoders.base import MLP, Decoder, Latent
from lmf.decoders.bicubic import Bicubic
from lmf.decoders.liif import LIIF
from lmf.decoders.lm_liif import LMLIIF
from lmf.decoders.modulation import LMFDecoder, ModulatedLatent, ModulatedMLP

__all__ = ["LIIF", "LMLIIF", "MLP", "Bicubic", "Decoder", "LMFDecoder", "Latent", "ModulatedLatent", "ModulatedMLP"]
