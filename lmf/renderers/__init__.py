"""Renderers turn a latent into a picture in bounded memory, with any decoder."""

from lmf.renderers.base import Renderer, Stats
from lmf.renderers.cmsr import CMSR, TableError, Tables
from lmf.renderers.dense import Dense

__all__ = ["CMSR", "Dense", "Renderer", "Stats", "TableError", "Tables"]
