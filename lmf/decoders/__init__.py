"""Decoders map features to colours at any coordinate; one method per file."""

from lmf.decoders.base import MLP, Decoder, Latent
from lmf.decoders.bicubic import Bicubic
from lmf.decoders.ciaosr import CiaoSR
from lmf.decoders.diif import DIIF
from lmf.decoders.liif import LIIF
from lmf.decoders.lm_ciaosr import LMCiaoSR
from lmf.decoders.lm_liif import LMLIIF
from lmf.decoders.lm_lte import LMLTE, LMLTEHeat
from lmf.decoders.lm_srno import LMSRNO
from lmf.decoders.lte import LTE, LTEPlus
from lmf.decoders.metasr import MetaSR
from lmf.decoders.modulation import LMFDecoder, ModulatedLatent, ModulatedMLP
from lmf.decoders.srno import SRNO
from lmf.decoders.thera import Thera

__all__ = [
    "DIIF",
    "LIIF",
    "LMLIIF",
    "LMLTE",
    "LMSRNO",
    "LTE",
    "MLP",
    "SRNO",
    "Bicubic",
    "CiaoSR",
    "Decoder",
    "LMCiaoSR",
    "LMFDecoder",
    "LMLTEHeat",
    "LTEPlus",
    "Latent",
    "MetaSR",
    "ModulatedLatent",
    "ModulatedMLP",
    "Thera",
]
