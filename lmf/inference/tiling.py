"""Enlarges pictures of any size in bounded memory: features by tile, latents by strip, colours by band of rows.

The result equals `SRModel.render` up to float32 rounding. Tiles and strips overlap by the ``receptive_field`` of the
encoder and the decoder, and coordinates keep their rounding (`lmf.grid.Strip`). If a decoder has no receptive field
(non-local features), features are still computed by tile, but the latent covers the whole picture. If an encoder has
none, the features cover it too. A renderer that is not pointwise (CMSR) receives and renders the whole picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from lmf.errors import UserError
from lmf.grid import Size
from lmf.model import SRModel
from lmf.renderers import Renderer

TILE = 768  # side of a tile in LR pixels
LATENTS = 1 << 18  # per strip
PIXELS = 1 << 22  # output pixels per band


def bands(
    model: SRModel, lr: Tensor, size: Size, tile: int = TILE, renderer: Renderer | None = None
) -> Iterator[Tensor]:
    """Yield ``model.render(lr, size)`` in bands of rows (B, 3, rows, W), from top to bottom.

    Args:
        model: the model to render with.
        lr: (B, 3, h, w) in network units.
        size: output (H, W).
        tile: side of the encoder's tiles in LR pixels, without their overlap; bounds the memory. Smaller pictures are
            encoded whole.
        renderer: used instead of the model's renderer.

    Raises:
        UserError: if ``tile`` is smaller than 1.
    """
    if tile < 1:
        raise UserError(f"tile must be at least 1 pixel, got {tile}")
    renderer = renderer or model.renderer
    whole = model.prepare(lr, size)
    h, w = whole.image.shape[-2:]
    rows, cols = whole.target.size
    scale = whole.target.cells[0] / h
    reach = model.decoder.receptive_field if renderer.pointwise else None
    margin = 0 if reach is None else reach + math.ceil(1 / scale)
    at_once = reach is None or model.encoder.receptive_field is None
    all_features = features(model, whole.image, (0, h), tile) if at_once else None
    pixels = max(1, PIXELS // (len(lr) * cols)) if renderer.pointwise else rows

    def around(start: int, stop: int) -> tuple[int, int]:
        """Return the range of LR rows that output rows ``start .. stop - 1`` depend on."""
        if reach is None:
            return 0, h
        return max(0, math.floor(start / scale) - margin), min(h, math.ceil(stop / scale) + margin)

    for start, stop in cut(0, rows, rows if at_once else max(1, int(tile * scale))):
        top, bottom = (0, h) if at_once else around(start, stop)
        feat = features(model, whole.image, (top, bottom), tile) if all_features is None else all_features
        for first, last in cut(start, stop, rows if reach is None else max(1, int(LATENTS / (len(lr) * w) * scale))):
            a, b = around(first, last)
            strip = whole.strip(a, b)
            latent = strip.latent(feat[:, :, a - top : b - top])
            for i, j in cut(first, last, pixels):
                yield strip.crop((i, j), (0, cols)).render(latent, renderer)


def features(model: SRModel, image: Tensor, rows: tuple[int, int], tile: int) -> Tensor:
    """Compute the features (B, C, rows, w) of a range of ``rows`` of ``image`` (B, 3, h, w), tile by tile."""
    w = image.shape[-1]
    top, bottom = rows
    if model.encoder.receptive_field is None:
        return model.features(image)[:, :, top:bottom]
    out: Tensor | None = None
    for y0, y1 in cut(top, bottom, tile):
        for x0, x1 in cut(0, w, tile):
            feat = tile_features(model, image, (y0, y1), (x0, x1))
            if feat.shape[-2:] == (bottom - top, w):
                return feat
            if out is None:
                size = (*feat.shape[:2], bottom - top, w)
                out = torch.empty(size, dtype=feat.dtype, device=feat.device, memory_format=torch.channels_last)
            out[:, :, y0 - top : y1 - top, x0:x1] = feat
    assert out is not None
    return out


def tile_features(model: SRModel, image: Tensor, rows: tuple[int, int], cols: tuple[int, int]) -> Tensor:
    """Compute the features (B, C, rows, cols) of half-open ranges of rows and columns of ``image`` (B, 3, h, w).

    The encoder sees them with everything in its receptive field, or the whole image if that has no bound.
    """
    field, step = model.encoder.receptive_field, model.encoder.multiple

    def widened(start: int, stop: int, n: int) -> tuple[int, int]:
        if field is None:
            return 0, n
        return max(0, (start - field) // step * step), min(n, math.ceil((stop + field) / step) * step)

    (a, b), (c, d) = (widened(*span, n) for span, n in zip((rows, cols), image.shape[-2:], strict=True))
    feat = model.features(image[:, :, a:b, c:d])
    return feat[:, :, rows[0] - a : rows[1] - a, cols[0] - c : cols[1] - c]


def cut(start: int, stop: int, step: int) -> list[tuple[int, int]]:
    """Split ``start .. stop`` into ranges of at most ``step``, as equal as possible."""
    count = math.ceil((stop - start) / step)
    edges = [start + (stop - start) * i // count for i in range(count + 1)]
    return list(pairwise(edges))
