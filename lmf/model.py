"""`SRModel`: an encoder, a decoder and a renderer make an image model of any scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lmf import io
from lmf.decoders.base import Decoder, Latent
from lmf.encoders.base import Encoder
from lmf.errors import UserError
from lmf.grid import Grid, Size, Strip
from lmf.io.colour import from_network, to_network
from lmf.renderers import Dense, Renderer

Image = TypeVar("Image")


class SRModel(nn.Module):
    """Arbitrary-scale super-resolution.

    Args:
        encoder: image to features.
        decoder: features to colours at coordinates.
        renderer: how whole pictures are made from a latent; `lmf.renderers.Dense` by default.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, renderer: Renderer | None = None) -> None:
        super().__init__()
        if decoder.in_channels != encoder.out_channels:
            raise UserError(
                f"{type(decoder).__name__} expects {decoder.in_channels} feature channels, "
                f"{type(encoder).__name__} delivers {encoder.out_channels}"
            )
        self.encoder = encoder
        self.decoder = decoder
        self.renderer = renderer or Dense()
        self.config: dict[str, Any] | None = None  # what `lmf.checkpoint.build` made it from; saved with weights

    def forward(self, lr: Tensor, coord: Tensor, cell: Tensor, feat: Tensor | None = None) -> Tensor:
        """Colours at scattered coordinates.

        Args:
            lr: (B, 3, h, w) in network units [-1, 1].
            coord: (B, Q, 2) as (y, x) in [-1, 1].
            cell: (B, 2) size of an output pixel in the same units; the caller clips it if the method wants
                that (`Decoder.cell`).
            feat: (B, C, h, w), the encoder's features of ``lr`` if they are known; none are computed then.

        Returns:
            (B, Q, 3) in network units, not clamped.

        Raises:
            ValueError: tensors of other shapes.
        """
        shapes = [tuple(t.shape) for t in (lr, coord, cell)]
        if [len(s) for s in shapes] != [4, 3, 2] or (lr.shape[1], coord.shape[2], cell.shape[1]) != (3, 2, 2):
            raise ValueError("lr must be (B, 3, h, w), coord (B, Q, 2), cell (B, 2); got {}, {}, {}".format(*shapes))
        if feat is not None:
            return self.decoder.query(self.decoder.latent(feat, lr, cell), coord, cell)
        padded = self.pad(lr)
        shrink = cell.new_tensor([n / p for n, p in zip(lr.shape[-2:], padded.shape[-2:], strict=True)])
        if padded is not lr:
            coord = (coord + 1) * shrink - 1
            cell = cell * shrink
        return self.decoder.query(self.latent(padded, cell), coord, cell)

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for a model without any."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def latent(self, image: Tensor, cell: Tensor) -> Latent:
        """The latent of an ``image`` (B, 3, h, w) that `pad` has been over, for ``cell`` (B, 2)."""
        return self.decoder.latent(self.features(image), image, cell)

    def features(self, image: Tensor) -> Tensor:
        """The encoder's features of an ``image`` (B, 3, h, w) that `pad` has been over."""
        last = torch.empty_like(image, memory_format=torch.channels_last)  # faster convolutions, hence latents
        # Copied, since a view of one image can count as channels-last and yet have strides that convolutions take for
        # another layout.
        return self.encoder(last.copy_(image))

    def render(self, lr: Tensor, size: Size) -> Tensor:
        """Whole pictures: ``lr`` (B, 3, h, w) in network units to (B, 3, H, W), not clamped."""
        return self.prepare(lr, size).render()

    def prepare(self, lr: Tensor, size: Size) -> Enlargement:
        """The enlargement of ``lr`` (B, 3, h, w) in network units to ``size`` (H, W); nothing is computed yet."""
        return Enlargement(self, self.pad(lr), self.target((lr.shape[-2], lr.shape[-1]), size))

    def pad(self, lr: Tensor) -> Tensor:
        """``lr`` reflected at the bottom and right up to a multiple of what the encoder wants."""
        m = self.encoder.multiple
        h, w = lr.shape[-2:]
        if h % m == 0 and w % m == 0:
            return lr
        y = reflected(h, math.ceil(h / m) * m, lr.device)
        x = reflected(w, math.ceil(w / m) * m, lr.device)
        return lr[..., y[:, None], x]

    def target(self, lr_size: Size, size: Size) -> Grid:
        """The pixels of an enlargement to ``size``, in the coordinates of the padded image."""
        m = self.encoder.multiple
        cells = [n * math.ceil(k / m) * m / k for n, k in zip(size, lr_size, strict=True)]
        return Grid((cells[0], cells[1]), (0, size[0]), (0, size[1]))

    @torch.inference_mode()
    def upscale(self, image: Image, *, scale: float | None = None, size: Size | None = None) -> Image:
        """Enlarges (or reduces) a picture.

        Args:
            image: PIL image, numpy array (H, W[, C]) of uint8, uint16 or float in [0, 1], or float tensor
                ([B,] C, H, W) in [0, 1]; C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGB + alpha.
            scale: factor on both sides, any positive number; the output is rounded to whole pixels.
            size: output (height, width) instead.

        Returns:
            The same kind of picture: type, depth, mode, alpha (resized bicubically beside the colours).

        Raises:
            UserError: scale or size missing, both given, or not positive.
            lmf.io.ImageError: a picture that cannot be understood.
        """
        colour, restore = io.decompose(image)
        size = target_size((colour.shape[-2], colour.shape[-1]), scale, size)
        with evaluating(self):
            out = self.render(to_network(colour.to(self.device)), (size[0], size[1]))
        return restore(from_network(out))


@dataclass(frozen=True)
class Enlargement:
    """A batch of pictures of one size to be enlarged to one size: the input of every stage, each stage a method.

    `features` runs the encoder, `latent` the decoder's work per LR pixel, `render` the work per output pixel. Stages
    that are not given the result of the one before compute it.

    Attributes:
        model: encoder, decoder and renderer.
        image: (B, 3, h, w) network input in [-1, 1], padded to the encoder's multiple.
        target: the output pixels, in the coordinates of ``image``.
    """

    model: SRModel
    image: Tensor
    target: Grid

    @cached_property
    def cell(self) -> Tensor:
        """Size (B, 2) of an output pixel in [-1, 1] units, clipped where the decoder does so."""
        size = (self.image.shape[-2], self.image.shape[-1])
        return self.model.decoder.cell(self.target, size, len(self.image), self.image.device)

    def features(self) -> Tensor:
        """The encoder's features (B, C, h, w)."""
        return self.model.features(self.image)

    def latent(self, feat: Tensor | None = None) -> Latent:
        """The decoder's latent of ``feat`` (B, C, h, w)."""
        return self.model.decoder.latent(self.features() if feat is None else feat, self.image, self.cell)

    def render(self, latent: Latent | None = None, renderer: Renderer | None = None) -> Tensor:
        """The pixels of ``target`` (B, 3, rows, cols) in network units, by the model's renderer unless one is given."""
        renderer = renderer or self.model.renderer
        return renderer(self.model.decoder, self.latent() if latent is None else latent, self.target, self.cell)

    def crop(self, rows: tuple[int, int], cols: tuple[int, int]) -> Enlargement:
        """The same enlargement of which only the output pixels in two half-open ranges are wanted."""
        return replace(self, target=replace(self.target, rows=rows, cols=cols))

    def strip(self, start: int, stop: int) -> Enlargement:
        """The same output pixels, computed from rows ``start .. stop - 1`` of ``image`` alone."""
        height = self.image.shape[-2]
        if (start, stop) == (0, height):
            return self
        target = replace(self.target, strip=Strip(start, stop, height))
        return replace(self, image=self.image[:, :, start:stop], target=target)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """``model`` in evaluation mode; every submodule gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def target_size(lr_size: Size, scale: float | None, size: Size | None) -> Size:
    """Output (H, W) from ``scale`` or ``size``, exactly one of which is given."""
    if (scale is None) == (size is None):
        raise UserError(f"give either scale or size, got scale={scale}, size={size}")
    if scale is not None:
        if not (math.isfinite(scale) and scale > 0):
            raise UserError(f"scale must be a positive number, got {scale}")
        return max(1, round(lr_size[0] * scale)), max(1, round(lr_size[1] * scale))
    assert size is not None
    if len(size) != 2 or any(n != int(n) or n < 1 for n in size):
        raise UserError(f"size must be (height, width), both whole and at least 1, got {size}")
    return int(size[0]), int(size[1])


def reflected(n: int, total: int, device: torch.device) -> Tensor:
    """Indices 0 .. ``total`` - 1 reflected into 0 .. ``n`` - 1, the edge not repeated."""
    period = max(1, 2 * (n - 1))
    index = torch.arange(total, device=device) % period
    return torch.where(index < n, index, period - index)
