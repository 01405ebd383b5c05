"""Enlarges pictures of any size in bounded memory: features and latents by strip, colours by band of rows.

The result equals `SRModel.render` up to float32 rounding. Strips of latents overlap by the ``receptive_field`` of the
decoder, and coordinates keep their rounding (`lmf.grid.Strip`). An encoder that consists of stages computes features
strip by strip (`lmf.inference.lines`); others compute them in tiles that overlap by their receptive field. If a decoder
has no receptive field (non-local features), the latent covers the whole picture. If an encoder has none, the features
cover it too. A decoder that is not pointwise (SRNO) summarises all pixels of the picture first. A renderer that is not
pointwise (CMSR) receives and renders the whole picture. A self-ensemble does all this for each flip and rotation, and
holds their sum for a band of the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from lmf.errors import UserError
from lmf.grid import Size
from lmf.inference.lines import Lines, channels_held, waste
from lmf.io import ORIENTATIONS
from lmf.model import Enlargement, SRModel
from lmf.renderers import Renderer

TILE = 768  # side of a tile in LR pixels, or of a square with the pixels of a strip
LATENTS = 1 << 18  # per strip
PIXELS = 1 << 22  # output pixels per band
SUMMED = 1 << 26  # output pixels that a self-ensemble holds

Span = tuple[int, int]  # half-open


def bands(
    model: SRModel,
    lr: Tensor,
    size: Size,
    tile: int = TILE,
    renderer: Renderer | None = None,
    self_ensemble: bool = False,
) -> Iterator[Tensor]:
    """Yield ``model.render(lr, size)`` in bands of rows (B, 3, rows, W), from top to bottom.

    Args:
        model: the model to render with.
        lr: (B, 3, h, w) in network units.
        size: output (H, W).
        tile: bounds the memory of the encoder: it computes ``tile * tile`` LR pixels at once, see `strip_lines`.
            Smaller pictures are encoded whole.
        renderer: used instead of the model's renderer.
        self_ensemble: average over the eight flips and rotations, see `SRModel.render`.

    Raises:
        UserError: if ``tile`` is smaller than 1.
    """
    if tile < 1:
        raise UserError(f"tile must be at least 1 pixel, got {tile}")
    renderer = renderer or model.renderer
    if self_ensemble:
        yield from averaged(model, lr, size, tile, renderer)
        return
    for _, _, pixels in pieces(model.prepare(lr, size), 0, (0, size[0]), tile, renderer):
        yield pixels


def averaged(model: SRModel, lr: Tensor, size: Size, tile: int, renderer: Renderer) -> Iterator[Tensor]:
    """Yield the mean over the eight flips and rotations in bands of rows, see `bands`.

    A band is summed over all of them before the next one begins. In a rotated picture it is a band of columns.
    """
    rows, cols = size
    step = rows
    if is_local(model, renderer):
        step = max(1, SUMMED // (len(lr) * cols))
        if not model.encoder.stages():  # the tiles of a band are in memory together
            step = max(1, min(int(tile * rows / lr.shape[-2]), step))
    for start, stop in cut(0, rows, step):
        total: Tensor | None = None
        for way in ORIENTATIONS:
            span = (rows - stop, rows - start) if way.rows else (start, stop)
            whole = model.prepare(way.apply(lr), way.size(size))
            for i, j, pixels in pieces(whole, int(way.swap), span, tile, renderer):
                band = way.undo(pixels)
                top = (rows - j if way.rows else i) - start
                if total is None:
                    total = band.new_zeros(*band.shape[:2], stop - start, cols)
                total[:, :, top : top + j - i] += band
        assert total is not None
        yield total.div_(len(ORIENTATIONS))


def is_local(model: SRModel, renderer: Renderer) -> bool:
    """Return whether a part of the output needs only a part of the features."""
    reach = model.decoder.receptive_field if renderer.pointwise else None
    return reach is not None and model.encoder.receptive_field is not None


def pieces(
    whole: Enlargement, axis: int, span: tuple[int, int], tile: int, renderer: Renderer
) -> Iterator[tuple[int, int, Tensor]]:
    """Render a range of output rows, or of columns for axis 1, in bounded memory.

    Args:
        whole: the enlargement of the whole picture.
        axis: 0 for rows, 1 for columns.
        span: the half-open range.
        tile: see `bands`.
        renderer: see `bands`.

    Yields:
        (first, end, pixels) for one part of ``span`` after the other; pixels are (B, 3, rows, W) or (B, 3, H, cols).
    """
    model, image = whole.model, whole.image
    n, across = image.shape[2 + axis], image.shape[3 - axis]
    whole_across = (0, whole.target.size[1 - axis])
    scale = whole.target.cells[axis] / n
    reach = model.decoder.receptive_field if renderer.pointwise else None
    margin = 0 if reach is None else reach + math.ceil(1 / scale)
    at_once = not is_local(model, renderer)
    all_features = features(model, image, axis, (0, n), tile) if at_once else None
    first, end = span
    step = model.decoder.multiple
    pixels = max(1, PIXELS // (len(image) * whole_across[1])) if renderer.pointwise else end - first
    latents = end - first if reach is None else max(1, int(LATENTS / (len(image) * across) * scale))

    def around(start: int, stop: int) -> tuple[int, int]:
        """Return the range of LR rows that output rows ``start .. stop - 1`` depend on."""
        if reach is None:
            return 0, n
        low, high = math.floor(start / scale) - margin, math.ceil(stop / scale) + margin
        return max(0, low // step * step), min(n, math.ceil(high / step) * step)

    streamed = bool(model.encoder.stages())
    for start, stop in cut(first, end, end - first if at_once or streamed else max(1, int(tile * scale))):
        low, high = (0, n) if at_once else around(start, stop)
        read = reader(model, image, axis, (low, high), tile, all_features)
        for i, j in cut(start, stop, latents):
            a, b = around(i, j)
            strip = whole.strip(a, b, axis)
            latent = strip.summarised(strip.latent(read(a, b)))
            for k, m in cut(i, j, pixels):
                part = strip.crop((k, m), whole_across) if axis == 0 else strip.crop(whole_across, (k, m))
                yield k, m, part.render(latent, renderer)


def reader(
    model: SRModel, image: Tensor, axis: int, span: Span, tile: int, feat: Tensor | None = None
) -> Callable[[int, int], Tensor]:
    """Return a function of ``a`` and ``b`` that returns the features of lines ``a .. b - 1`` in ``span``.

    It must be called with increasing ``a``. The features are computed strip by strip when it is called, at once if the
    encoder does not work in strips or there is only one, or taken from ``feat`` if given.
    """
    step = 0 if feat is not None else strip_lines(model, (span[1] - span[0], image.shape[3 - axis]), tile)
    if step:
        low, high = widened(model, span, image.shape[2 + axis])
        part = image.narrow(2 + axis, low, high - low)
        lines = Lines(model.encoder.stages(), part, step, axis, model.decoder.encoder_input)
        return lambda a, b: lines.read(a - low, b - low)
    whole = features(model, image, axis, span, tile) if feat is None else feat
    return lambda a, b: whole.narrow(2 + axis, a - span[0], b - a)


def strip_lines(model: SRModel, size: Size, tile: int) -> int:
    """Return how many lines of a picture the encoder computes at once, or 0 if it does not work strip by strip.

    Args:
        model: the model.
        size: (lines, pixels in a line).
        tile: a strip has ``tile * tile`` pixels, but at least ``tile / 8`` lines.
    """
    lines = max(1, tile // 8, tile * tile // size[1])
    return lines if lines < size[0] and model.encoder.stages() else 0


@dataclass(frozen=True)
class Encoding:
    """How the encoder works on a picture.

    Attributes:
        lines: lines of a strip, 0 if it does not work strip by strip.
        waste: share of its work that is repeated.
        memory: about the bytes of its maps at once; None if it works in tiles or at once, for which no bound is known.
    """

    lines: int
    waste: float
    memory: int | None


def encoding(model: SRModel, size: Size, tile: int = TILE) -> Encoding:
    """Return how the encoder works on a picture of ``size`` (h, w); see `bands` for ``tile``."""
    (h, w), encoder = size, model.encoder
    stages, step = encoder.stages(), strip_lines(model, size, tile)
    if stages:
        held = channels_held(stages, h, step or h)
        return Encoding(step, waste(stages, h, step or h), 4 * w * held)
    if encoder.receptive_field is None:
        return Encoding(0, 0.0, None)
    sides = [[widened(model, span, n) for span in cut(0, n, tile)] for n in size]
    seen = math.prod(sum(stop - start for start, stop in spans) for spans in sides)
    return Encoding(0, seen / (h * w) - 1, None)


def features(model: SRModel, image: Tensor, axis: int, span: Span, tile: int) -> Tensor:
    """Compute the features of a ``span`` of rows of ``image`` (B, 3, h, w), or of columns for axis 1, in parts.

    Returns:
        (B, C, rows, w) or (B, C, h, cols).
    """
    h, w = image.shape[-2:]
    (top, bottom), (left, right) = ((0, h), span) if axis else (span, (0, w))
    if model.encoder.receptive_field is None:
        return model.features(image)[:, :, top:bottom, left:right]
    out: Tensor | None = None
    for rows, cols, feat in parts(model, image, axis, span, tile):
        if feat.shape[-2:] == (bottom - top, right - left):
            return feat
        if out is None:
            size = (*feat.shape[:2], bottom - top, right - left)
            out = torch.empty(size, dtype=feat.dtype, device=feat.device, memory_format=torch.channels_last)
        out[:, :, rows[0] - top : rows[1] - top, cols[0] - left : cols[1] - left] = feat
    assert out is not None
    return out


def parts(model: SRModel, image: Tensor, axis: int, span: Span, tile: int) -> Iterator[tuple[Span, Span, Tensor]]:
    """Yield (rows, columns, features) of the parts of a ``span`` of lines: strips, or tiles with an overlap."""
    across = (0, image.shape[3 - axis])
    step = strip_lines(model, (span[1] - span[0], across[1]), tile)
    if step:
        read = reader(model, image, axis, span, tile)
        for strip in cut(*span, step):
            yield *((across, strip) if axis else (strip, across)), read(*strip)
        return
    side = max(image.shape[-2:]) if model.encoder.stages() else tile
    rows, cols = (across, span) if axis else (span, across)
    for rectangle in product(cut(*rows, side), cut(*cols, side)):
        yield *rectangle, tile_features(model, image, *rectangle)


def tile_features(model: SRModel, image: Tensor, rows: Span, cols: Span) -> Tensor:
    """Compute the features (B, C, rows, cols) of half-open ranges of rows and columns of ``image`` (B, 3, h, w).

    The encoder sees them with everything in its receptive field, or the whole image if that has no bound.
    """
    (a, b), (c, d) = (widened(model, span, n) for span, n in zip((rows, cols), image.shape[-2:], strict=True))
    feat = model.features(image[:, :, a:b, c:d])
    return feat[:, :, rows[0] - a : rows[1] - a, cols[0] - c : cols[1] - c]


def widened(model: SRModel, span: Span, total: int) -> Span:
    """Return the range of ``total`` lines that the encoder needs for the features of ``span``."""
    field, step = model.encoder.receptive_field, model.encoder.multiple
    if field is None:
        return 0, total
    return max(0, (span[0] - field) // step * step), min(total, math.ceil((span[1] + field) / step) * step)


def cut(start: int, stop: int, step: int) -> list[tuple[int, int]]:
    """Split ``start .. stop`` into ranges of at most ``step``, as equal as possible."""
    count = math.ceil((stop - start) / step)
    edges = [start + (stop - start) * i // count for i in range(count + 1)]
    return list(pairwise(edges))
