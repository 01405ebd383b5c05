"""What every renderer is: a latent to a picture in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lmf.decoders.base import Decoder, Latent
from lmf.grid import Grid


@dataclass(frozen=True)
class Stats:
    """What was rendered of one picture.

    Attributes:
        levels: scales at which something was rendered, ascending.
        rendered: pixels rendered at each of them.
        pixels: of the output.
        level_map: uint8 (h, w), for each latent the index in ``levels`` of its own level.
        tried: pixels rendered beside those, to keep ``precision_db``.
        precision_db: what was found then: PSNR against dense rendering, colours in [0, 1].
    """

    levels: tuple[float, ...]
    rendered: tuple[int, ...]
    pixels: int
    level_map: Tensor
    tried: int = 0
    precision_db: float | None = None

    @property
    def share(self) -> float:
        """Rendered pixels / output pixels."""
        return (sum(self.rendered) + self.tried) / self.pixels


class Renderer:
    """Renders the pixels of a grid from a latent.

    ``pointwise``: a pixel depends on nothing but the latents around it, so parts of a picture may be rendered one by
    one. A renderer that is not pointwise is given whole pictures.

    ``multi_scale``: it renders parts of a picture more coarsely. `watched` then says what it rendered, and results are
    compared with dense rendering.
    """

    pointwise: bool = False
    multi_scale: bool = False

    def __call__(self, decoder: Decoder, latent: Latent, target: Grid, cell: Tensor) -> Tensor:
        """Picture (B, 3, rows, cols) of ``target`` in network units.

        Args:
            decoder: made the latent.
            latent: of a batch of B images.
            target: the pixels to render.
            cell: (B, 2), see `Decoder.cell`.
        """
        raise TypeError(f"{type(self).__name__} does not define __call__(decoder, latent, target, cell)")

    @property
    def settings(self) -> Mapping[str, Any]:
        """The options that change pictures, for those who log them."""
        return {}

    def check(self, model: nn.Module) -> None:
        """Refuses a ``model`` that this renderer was not made for.

        Raises:
            UserError: it cannot render its latents correctly.
        """

    def watched(self, stats: list[Stats]) -> Renderer:
        """This renderer, appending to ``stats`` what it rendered of each picture; itself if it renders every pixel."""
        return self
