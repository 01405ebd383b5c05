"""`SRModel` combines an encoder, a decoder and a renderer into a super-resolution model for any scale."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lmf import io, kernels
from lmf.decoders.base import Decoder, Latent
from lmf.encoders.base import Encoder
from lmf.errors import UserError
from lmf.grid import Grid, Size, Strip, reflected
from lmf.io.colour import from_network, to_network
from lmf.renderers import Dense, Renderer

Image = TypeVar("Image")


class SRModel(nn.Module):
    """Arbitrary-scale super-resolution model.

    Args:
        encoder: maps an image to features.
        decoder: maps features to colours at coordinates.
        renderer: renders whole pictures from a latent; `lmf.renderers.Dense` by default.

    Raises:
        UserError: if the decoder expects another number of feature channels than the encoder returns.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, renderer: Renderer | None = None) -> None:
        super().__init__()
        if decoder.in_channels != encoder.out_channels:
            raise UserError(
                f"{type(decoder).__name__} expects {decoder.in_channels} feature channels, "
                f"{type(encoder).__name__} returns {encoder.out_channels}"
            )
        self.encoder = encoder
        self.decoder = decoder
        self.renderer = renderer or Dense()
        self.config: dict[str, Any] | None = None  # set by `lmf.checkpoint.build`, saved with the weights

    def forward(self, lr: Tensor, coord: Tensor, cell: Tensor, feat: Tensor | None = None) -> Tensor:
        """Predict colours at scattered coordinates.

        Args:
            lr: (B, 3, h, w) in network units [-1, 1].
            coord: (B, Q, 2) as (y, x) in [-1, 1].
            cell: (B, 2) size of an output pixel in the same units, already clipped if the method clips cells
                (`Decoder.cell`).
            feat: (B, C, h, w) precomputed encoder features of ``lr``; the encoder does not run if given.

        Returns:
            (B, Q, 3) in network units, not clamped.

        Raises:
            ValueError: if a shape does not match.
        """
        return self.decoder.query(*self.encode(lr, coord, cell, feat))

    def encode(
        self, lr: Tensor, coord: Tensor, cell: Tensor, feat: Tensor | None = None
    ) -> tuple[Latent, Tensor, Tensor]:
        """Compute the latent for `forward`, and the coordinates and cell in its units; see `forward`."""
        shapes = [tuple(t.shape) for t in (lr, coord, cell)]
        if [len(s) for s in shapes] != [4, 3, 2] or (lr.shape[1], coord.shape[2], cell.shape[1]) != (3, 2, 2):
            raise ValueError("lr must be (B, 3, h, w), coord (B, Q, 2), cell (B, 2); got {}, {}, {}".format(*shapes))
        if len({s[0] for s in shapes}) > 1:
            raise ValueError("lr, coord and cell must have the same batch size; got shapes {}, {}, {}".format(*shapes))
        if feat is not None:
            return self.decoder.latent(feat, lr, cell), coord, cell
        padded = self.pad(lr)
        shrink = cell.new_tensor([n / p for n, p in zip(lr.shape[-2:], padded.shape[-2:], strict=True)])
        if padded is not lr:
            coord = (coord + 1) * shrink - 1
            cell = cell * shrink
        return self.latent(padded, cell), coord, cell

    @property
    def device(self) -> torch.device:
        """Device of the weights; the CPU if the model has none."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def latent(self, image: Tensor, cell: Tensor) -> Latent:
        """Compute the latent of a padded ``image`` (B, 3, h, w), see `pad`, for ``cell`` (B, 2)."""
        return self.decoder.latent(self.features(image), image, cell)

    def features(self, image: Tensor) -> Tensor:
        """Compute the encoder's features (B, C, h, w) of a padded ``image`` (B, 3, h, w), see `pad`."""
        # Channels-last speeds up the convolutions. The image is copied because a view of a single image can count as
        # channels-last although convolutions read its strides as another layout.
        channels_last = torch.empty_like(image, memory_format=torch.channels_last)
        with kernels.reduced(image) as half:
            feat: Tensor = self.encoder(channels_last.copy_(self.decoder.encoder_input(image)))
        return feat.float() if half else feat

    def render(self, lr: Tensor, size: Size, *, self_ensemble: bool = False) -> Tensor:
        """Enlarge ``lr`` (B, 3, h, w) in network units to (B, 3, H, W), not clamped.

        Args:
            lr: the pictures.
            size: output (H, W).
            self_ensemble: average the enlargements of the eight flips and rotations of ``lr``, each laid back. It
                costs eight times as much.
        """
        if not self_ensemble:
            return self.prepare(lr, size).render()
        total = lr.new_zeros(())
        for way in io.ORIENTATIONS:
            total = total + way.undo(self.prepare(way.apply(lr), way.size(size)).render())
        return total / len(io.ORIENTATIONS)

    def prepare(self, lr: Tensor, size: Size) -> Enlargement:
        """Describe the enlargement of ``lr`` (B, 3, h, w) in network units to ``size`` (H, W) without computing it."""
        target = self.target((lr.shape[-2], lr.shape[-1]), size)
        return Enlargement(self, self.pad(lr), target, target)

    def pad(self, lr: Tensor) -> Tensor:
        """Reflect ``lr`` (..., h, w) at the bottom and right to the next multiples of ``encoder.multiple``."""
        m = self.encoder.multiple
        h, w = lr.shape[-2:]
        if h % m == 0 and w % m == 0:
            return lr
        y = reflected(h, math.ceil(h / m) * m, lr.device)
        x = reflected(w, math.ceil(w / m) * m, lr.device)
        return lr[..., y[:, None], x]

    def target(self, lr_size: Size, size: Size) -> Grid:
        """Return the output grid of an enlargement of ``lr_size`` to ``size``, in coordinates of the padded image."""
        m = self.encoder.multiple
        cells = [n * math.ceil(k / m) * m / k for n, k in zip(size, lr_size, strict=True)]
        return Grid((cells[0], cells[1]), (0, size[0]), (0, size[1]))

    @torch.no_grad()  # not inference mode: callers may train on the result
    def upscale(
        self, image: Image, *, scale: float | None = None, size: Size | None = None, self_ensemble: bool = False
    ) -> Image:
        """Enlarge (or reduce) a picture.

        Args:
            image: PIL image, numpy array (H, W[, C]) of uint8, uint16 or float in [0, 1], or float tensor
                ([B,] C, H, W) in [0, 1]. C is 1 for grey, 2 for grey + alpha, 3 for RGB and 4 for RGB + alpha.
            scale: factor for both sides, any positive number. The output size is rounded to whole pixels.
            size: output (height, width), instead of ``scale``.
            self_ensemble: average over the eight flips and rotations, see `render`.

        Returns:
            A picture of the same type, depth and mode. Alpha is enlarged like a grey picture. PIL images keep colour
            profile, EXIF, XMP and resolution.

        Raises:
            UserError: if neither or both of ``scale`` and ``size`` are given, or if one is not positive.
            lmf.io.ImageError: if the type, shape or mode of ``image`` is not supported.
        """
        planes, compose = io.decompose(image)
        size = target_size((planes[0].shape[-2], planes[0].shape[-1]), scale, size)
        with evaluating(self):
            lr = [to_network(plane.to(self.device)) for plane in planes]
            enlarged: Image = compose([from_network(self.render(x, size, self_ensemble=self_ensemble)) for x in lr])
        return enlarged


@dataclass(frozen=True)
class Enlargement:
    """The enlargement of a batch of pictures to one output size, with one method per stage.

    `features` runs the encoder, `latent` the decoder's work per LR pixel and `render` its work per output pixel. A
    stage computes the previous one unless it receives the result.

    Attributes:
        model: encoder, decoder and renderer.
        image: (B, 3, h, w) network input in [-1, 1], padded to ``encoder.multiple``.
        target: the output pixels, in coordinates of ``image``.
        picture: all pixels of the enlargement, of which ``target`` may be a part.
    """

    model: SRModel
    image: Tensor
    target: Grid
    picture: Grid

    @cached_property
    def cell(self) -> Tensor:
        """Size (B, 2) of an output pixel in [-1, 1] units, clipped if the decoder clips cells.

        It is float64 for a float64 image, otherwise float32.
        """
        size, dtype = (self.image.shape[-2], self.image.shape[-1]), self.image.dtype
        dtype = torch.promote_types(dtype, torch.float32)
        return self.model.decoder.cell(self.target, size, len(self.image), self.image.device, dtype)

    def features(self) -> Tensor:
        """Compute the encoder's features (B, C, h, w)."""
        return self.model.features(self.image)

    def latent(self, feat: Tensor | None = None) -> Latent:
        """Compute the decoder's latent from ``feat`` (B, C, h, w)."""
        return self.model.decoder.latent(self.features() if feat is None else feat, self.image, self.cell)

    def summarised(self, latent: Latent | None = None) -> Latent:
        """Return ``latent`` for rendering parts of the picture, see `Decoder.summarise`."""
        latent = self.latent() if latent is None else latent
        summarised: Latent = self.model.decoder.summarise(latent, self.picture, self.cell)
        return summarised

    def render(self, latent: Latent | None = None, renderer: Renderer | None = None) -> Tensor:
        """Render ``target`` as (B, 3, rows, cols) in network units.

        Args:
            latent: result of `latent`.
            renderer: used instead of the model's renderer.
        """
        renderer = renderer or self.model.renderer
        latent = self.latent() if latent is None else latent
        if self.target != self.picture:
            latent = self.summarised(latent)
        return renderer(self.model.decoder, latent, self.target, self.cell)

    def crop(self, rows: tuple[int, int], cols: tuple[int, int]) -> Enlargement:
        """Restrict the output to the pixels in half-open ranges of ``rows`` and ``cols``."""
        return replace(self, target=replace(self.target, rows=rows, cols=cols))

    def strip(self, start: int, stop: int, axis: int = 0) -> Enlargement:
        """Compute the same output pixels from rows ``start .. stop - 1`` of ``image`` alone, or columns for axis 1."""
        total = self.image.shape[2 + axis]
        if (start, stop) == (0, total):
            return self
        strip = Strip(start, stop, total)
        target = replace(self.target, column_strip=strip) if axis else replace(self.target, strip=strip)
        return replace(self, image=self.image.narrow(2 + axis, start, stop - start), target=target)

    def part(self, rows: tuple[int, int], cols: tuple[int, int]) -> Enlargement:
        """Compute the same output pixels from half-open ranges of ``rows`` and ``cols`` of ``image`` alone."""
        return self.strip(*rows).strip(*cols, axis=1)


_LOCK = threading.Lock()
_EVALUATING: dict[nn.Module, tuple[int, list[tuple[nn.Module, bool]]]] = {}  # threads inside, and the modes before


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into evaluation mode and restore the mode of every submodule afterwards.

    Threads may enter at the same time; the modes are restored when the last of them leaves.
    """
    with _LOCK:
        inside, modes = _EVALUATING.get(model, (0, []))
        if not inside:
            modes = [(module, module.training) for module in model.modules()]
            model.eval()
        _EVALUATING[model] = (inside + 1, modes)
    try:
        yield
    finally:
        with _LOCK:
            inside, modes = _EVALUATING.pop(model)
            if inside > 1:
                _EVALUATING[model] = (inside - 1, modes)
            else:
                for module, training in modes:
                    module.training = training


def target_size(lr_size: Size, scale: float | None, size: Size | None) -> Size:
    """Return the output (H, W) for ``scale`` or ``size``.

    Raises:
        UserError: if neither or both are given, or if one is not positive.
    """
    if (scale is None) == (size is None):
        raise UserError(f"give either scale or size, got scale={scale}, size={size}")
    if scale is not None:
        if not (isinstance(scale, int | float) and math.isfinite(scale) and scale > 0):
            raise UserError(f"scale must be a positive number, got {scale!r}")
        return max(1, round(lr_size[0] * scale)), max(1, round(lr_size[1] * scale))
    assert size is not None
    if not isinstance(size, Sequence) or len(size) != 2 or any(n != int(n) or n < 1 for n in size):
        raise UserError(f"size must be (height, width), both integers of at least 1, got {size!r}")
    return int(size[0]), int(size[1])
