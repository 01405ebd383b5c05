"""CMSR: controllable multi-scale rendering (He & Jin, CVPR 2024, section 3.4)."""

from lmf.renderers.cmsr.renderer import CMSR
from lmf.renderers.cmsr.tables import TableError, Tables

__all__ = ["CMSR", "TableError", "Tables"]
