"""The base class of renderers, which turn a latent into a picture in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lmf.decoders.base import Decoder, Latent
from lmf.grid import Grid


@dataclass(frozen=True)
class Stats:
    """Statistics of the multi-scale rendering of one picture.

    Attributes:
        levels: scales at which pixels were rendered, ascending.
        rendered: number of pixels rendered at each of them.
        pixels: number of output pixels.
        level_map: uint8 (h, w), index in ``levels`` of the level of each latent.
        tried: number of additional pixels rendered to choose a table for a given precision.
        dense: why the picture was rendered densely; None if it was rendered in levels.
        precision_db: sampled PSNR in dB against dense rendering, colours in [0, 1]; None if it was not measured.
    """

    levels: tuple[float, ...]
    rendered: tuple[int, ...]
    pixels: int
    level_map: Tensor
    tried: int = 0
    precision_db: float | None = None
    dense: str | None = None

    @property
    def share(self) -> float:
        """Rendered pixels divided by output pixels."""
        return (sum(self.rendered) + self.tried) / self.pixels


class Renderer:
    """Base class of renderers, which render the pixels of a grid from a latent.

    Attributes:
        pointwise: whether a pixel depends only on the latents around it, so that a picture can be rendered in parts. A
            renderer that is not pointwise always receives whole pictures.
        multi_scale: whether it renders parts of a picture at a coarser scale. `watched` then collects statistics, and
            results are compared with dense rendering.
    """

    pointwise: bool = False
    multi_scale: bool = False

    def __call__(self, decoder: Decoder, latent: Latent, target: Grid, cell: Tensor) -> Tensor:
        """Render the pixels of ``target``.

        Args:
            decoder: the decoder that computed ``latent``.
            latent: latent of a batch of B images.
            target: the pixels to render.
            cell: (B, 2) size of an output pixel in [-1, 1] units, see `Decoder.cell`; float32, or float64 for a
                float64 latent.

        Returns:
            (B, 3, rows, cols) in network units [-1, 1] and the type of ``cell``, not clamped.
        """
        raise TypeError(f"{type(self).__name__} does not define __call__(decoder, latent, target, cell)")

    @property
    def settings(self) -> Mapping[str, Any]:
        """Options that affect the picture, for logging."""
        return {}

    def check(self, model: nn.Module) -> None:
        """Check that this renderer fits ``model``.

        Raises:
            UserError: if it cannot render the latents of ``model`` correctly.
        """

    def watched(self, stats: list[Stats]) -> Renderer:
        """Return a renderer that appends the `Stats` of each picture to ``stats``.

        A renderer that renders every pixel returns itself.
        """
        return self
