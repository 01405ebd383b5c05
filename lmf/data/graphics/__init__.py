"""Graphics that the program draws: an endless supply for training, and a fixed set for measuring."""

from lmf.data.graphics.canvas import Palette
from lmf.data.graphics.source import KINDS, Graphics, draw

__all__ = ["KINDS", "Graphics", "Palette", "draw"]
