"""Random access to the enlargements of one picture: any rectangle at any scale, from features that are computed once.

A rectangle equals the same pixels of `SRModel.render` up to float32 rounding, as in `lmf.inference.tiling`.
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from lmf.decoders.base import Latent
from lmf.errors import UserError
from lmf.grid import Size
from lmf.inference import tiling
from lmf.model import Enlargement, SRModel
from lmf.renderers import Renderer

TILE = 256  # side of an encoder tile in LR pixels: a view must not wait for long
PATCH = 64  # side of a patch of latents in LR pixels: what dragging a view adds
LATENTS = 1 << 30  # bytes

Span = tuple[int, int]  # half-open
Box = tuple[Span, Span]  # rows, columns


class Cache:
    """The latents that were used last, up to ``limit`` bytes; several `Views` may share it. Safe for threads."""

    def __init__(self, limit: int = LATENTS) -> None:
        self.limit = limit
        self._held: OrderedDict[tuple[object, ...], tuple[Latent, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[object, ...]) -> Latent | None:
        """Return the latent stored under ``key``; None if there is none."""
        with self._lock:
            if key not in self._held:
                return None
            self._held.move_to_end(key)
            return self._held[key][0]

    def put(self, key: tuple[object, ...], latent: Latent) -> None:
        """Store ``latent`` and drop those used longest ago beyond the limit."""
        size = sum(t.nbytes for t in latent.tensors().values())
        with self._lock:
            self._drop([key] if key in self._held else [])
            self._held[key] = latent, size
            self._bytes += size
            while self._bytes > self.limit:
                self._drop([next(iter(self._held))])

    def forget(self, owner: object) -> None:
        """Drop all latents whose key begins with ``owner``."""
        with self._lock:
            self._drop([key for key in self._held if key[0] is owner])

    def _drop(self, keys: Iterable[tuple[object, ...]]) -> None:
        for key in keys:
            self._bytes -= self._held.pop(key)[1]


class Features:
    """The features of one picture in a temporary file, written and read by rectangle.

    The file has no name, so that it disappears with the process. Memory does not grow with the picture.

    Args:
        channels: width C of the features.
        size: (h, w).
    """

    def __init__(self, channels: int, size: Size) -> None:
        self.channels, self.size = channels, size
        self._file = tempfile.TemporaryFile(prefix="lmf-features-")  # noqa: SIM115 (closed with this object)

    def write(self, box: Box, feat: Tensor) -> None:
        """Store ``feat`` (1, C, rows, cols) at ``box``."""
        values = np.ascontiguousarray(feat[0].permute(1, 2, 0).float().cpu().numpy())
        for row, line in zip(range(*box[0]), values, strict=True):
            data, at = line.data.cast("B"), self._offset(row, box)
            while data:
                written = os.pwrite(self._file.fileno(), data, at)
                data, at = data[written:], at + written

    def read(self, box: Box) -> Tensor:
        """Return the features (1, C, rows, cols) at ``box``, channels-last in memory."""
        (top, bottom), (left, right) = box
        out = np.empty((bottom - top, right - left, self.channels), dtype=np.float32)
        for row, line in zip(range(top, bottom), out, strict=True):
            os.preadv(self._file.fileno(), [line.data.cast("B")], self._offset(row, box))
        return torch.from_numpy(out)[None].permute(0, 3, 1, 2)

    def _offset(self, row: int, box: Box) -> int:
        return (row * self.size[1] + box[1][0]) * self.channels * 4


class Views:
    """Rectangles of the enlargements of one picture.

    `encode` computes the features of one tile. `render` needs all tiles that `missing` names.

    Args:
        model: the model; its renderer is not used.
        lr: (1, 3, h, w) in network units.
        cache: holds latents between calls.
        tile: side of a tile of the encoder in LR pixels.
        patch: side of a patch of latents.
    """

    def __init__(
        self, model: SRModel, lr: Tensor, cache: Cache | None = None, tile: int = TILE, patch: int = PATCH
    ) -> None:
        self.model, self.lr = model, lr
        self.cache = Cache() if cache is None else cache
        self.image = model.pad(lr)
        h, w = self.image.shape[-2:]
        self.features = Features(model.encoder.out_channels, (h, w))
        whole = max(h, w)
        reach = model.decoder.receptive_field
        self.tiles = boxes((h, w), whole if model.encoder.receptive_field is None else tile)
        self.patches = boxes((h, w), whole if reach is None else patch)
        self.encoded: set[Box] = set()
        self._key = object()

    @property
    def size(self) -> Size:
        """(h, w) of the picture."""
        return self.lr.shape[-2], self.lr.shape[-1]

    def encode(self, tile: Box) -> None:
        """Compute and store the features of one of ``tiles``."""
        rows, cols = tile
        self.features.write(tile, tiling.tile_features(self.model, self.image, rows, cols))
        self.encoded.add(tile)

    def missing(self, size: Size, view: Box) -> list[Box]:
        """Return the tiles that must be encoded before ``view`` of the enlargement to ``size`` can be rendered."""
        needed = self._widened(self.region(size, view), size)
        return [tile for tile in self.tiles if tile not in self.encoded and meets(tile, needed)]

    def render(self, size: Size, view: Box, renderer: Renderer) -> Tensor:
        """Render ``view`` (rows, columns) of the enlargement to ``size`` (H, W).

        A pointwise renderer renders patch by patch. Another one renders the view at once, from the latents around it.

        Returns:
            (1, 3, rows, cols) in network units, not clamped.

        Raises:
            UserError: if the view does not lie in the enlargement.
        """
        inside = all(0 <= a < b <= n for (a, b), n in zip(view, size, strict=True))
        if not inside:
            raise UserError(f"a view must lie in the picture of {size[1]}x{size[0]} pixels, got {view}")
        whole = self.model.prepare(self.lr, size)
        if not renderer.pointwise:
            region, latent = self._joined(whole, size, view)
            return whole.part(*region).crop(*view).render(latent, renderer)
        out = whole.cell.new_empty(1, 3, *(stop - start for start, stop in view))
        for patch in self.patches:
            shown = intersection(self._pixels(patch, size), view)
            if shown is not None:
                part, latent = self._latent(whole, patch, size)
                rows, cols = (slice(a - first, b - first) for (a, b), (first, _) in zip(shown, view, strict=True))
                out[:, :, rows, cols] = part.crop(*shown).render(latent, renderer)
        return out

    def bands(self, size: Size, renderer: Renderer) -> Iterator[Tensor]:
        """Yield the whole enlargement to ``size`` in bands of rows (1, 3, rows, W), from top to bottom.

        All tiles must be encoded.
        """
        for rows in dict.fromkeys(self._pixels(patch, size)[0] for patch in self.patches):
            for first, last in tiling.cut(*rows, max(1, tiling.PIXELS // size[1])):
                yield self.render(size, ((first, last), (0, size[1])), renderer)

    def region(self, size: Size, view: Box) -> Box:
        """Return the LR rectangle, of whole patches, whose latents a renderer that is not pointwise gets."""
        needed = self._widened(self._covered(size, view), size)
        within = [patch for patch in self.patches if meets(patch, needed)]
        return (within[0][0][0], within[-1][0][1]), (within[0][1][0], within[-1][1][1])

    def close(self) -> None:
        """Drop the latents of this picture from the cache."""
        self.cache.forget(self._key)

    def _scales(self, size: Size) -> tuple[float, float]:
        h, w = self.size
        return size[0] / h, size[1] / w

    def _pixels(self, patch: Box, size: Size) -> Box:
        """Return the output pixels whose upper left corners lie in ``patch``; patches share none."""
        spans = []
        for (start, stop), scale, total, n in zip(patch, self._scales(size), size, self.image.shape[-2:], strict=True):
            first, last = math.ceil(start * scale), total if stop == n else math.ceil(stop * scale)
            spans.append((min(first, total), min(last, total)))
        return spans[0], spans[1]

    def _covered(self, size: Size, view: Box) -> Box:
        """Return the rectangle of the patches that show ``view``."""
        shown = [patch for patch in self.patches if intersection(self._pixels(patch, size), view)]
        return (shown[0][0][0], shown[-1][0][1]), (shown[0][1][0], shown[-1][1][1])

    def _widened(self, box: Box, size: Size) -> Box:
        """Return ``box`` of LR pixels with everything that colours in it depend on."""
        reach = self.model.decoder.receptive_field
        spans = []
        for (start, stop), scale, n in zip(box, self._scales(size), self.image.shape[-2:], strict=True):
            margin = n if reach is None else reach + math.ceil(1 / scale)
            spans.append((max(0, start - margin), min(n, stop + margin)))
        return spans[0], spans[1]

    def _latent(self, whole: Enlargement, patch: Box, size: Size) -> tuple[Enlargement, Latent]:
        """Return the enlargement from the widened ``patch`` alone, and its latent."""
        around = self._widened(patch, size)
        part = whole.part(*around)
        key = (self._key, around, *part.cell[0].tolist())
        latent = self.cache.get(key)
        if latent is None:
            latent = part.latent(self.features.read(around).to(self.image.device))
            self.cache.put(key, latent)
        return part, latent

    def _joined(self, whole: Enlargement, size: Size, view: Box) -> tuple[Box, Latent]:
        """Return `region` and its latent, joined from those of its patches."""
        region = self.region(size, view)
        lines: dict[Span, list[Latent]] = {}
        for patch in self.patches:
            if meets(patch, region):
                latent = self._latent(whole, patch, size)[1]
                (top, _), (left, _) = self._widened(patch, size)
                (a, b), (c, d) = patch
                lines.setdefault((a, b), []).append(cropped(latent, ((a - top, b - top), (c - left, d - left))))
        return region, joined([joined(line, 1) for line in lines.values()], 0)


def cropped(latent: Latent, box: Box) -> Latent:
    """Return the rows and columns ``box`` of ``latent``."""
    rows, cols = (slice(*span) for span in box)
    maps = {
        name: value[:, :, rows, cols] if name == "image" else value[:, rows, cols]
        for name, value in latent.tensors().items()
    }
    return replace(latent, size=(rows.stop - rows.start, cols.stop - cols.start), **maps)


def joined(latents: list[Latent], axis: int) -> Latent:
    """Join latents below (``axis`` 0) or beside (1) each other."""
    parts = [latent.tensors() for latent in latents]
    maps = {name: torch.cat([part[name] for part in parts], axis + (2 if name == "image" else 1)) for name in parts[0]}
    size = [latents[0].size[0], latents[0].size[1]]
    size[axis] = sum(latent.size[axis] for latent in latents)
    return replace(latents[0], size=(size[0], size[1]), **maps)


def boxes(size: Size, side: int) -> list[Box]:
    """Cut a picture of ``size`` into boxes of at most ``side`` rows and columns, in row-major order."""
    rows, cols = (tiling.cut(0, n, side) for n in size)
    return list(product(rows, cols))


def intersection(a: Box, b: Box) -> Box | None:
    """Return the rectangle that two rectangles share; None if there is none."""
    (top, bottom), (left, right) = ((max(x[0], y[0]), min(x[1], y[1])) for x, y in zip(a, b, strict=True))
    return ((top, bottom), (left, right)) if top < bottom and left < right else None


def meets(a: Box, b: Box) -> bool:
    """Return whether two rectangles share a pixel."""
    return intersection(a, b) is not None
