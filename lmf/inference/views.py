"""Random access to the enlargements of one picture: any rectangle at any scale, from features that are computed once.

A rectangle equals the same pixels of `SRModel.render` up to float32 rounding, as in `lmf.inference.tiling`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from torch import Tensor

from lmf.decoders.base import Latent
from lmf.errors import UserError
from lmf.grid import Size
from lmf.inference import tiling
from lmf.inference.stores import Box, Cache, Features, Span, bytes_of
from lmf.model import Enlargement, SRModel
from lmf.renderers import Renderer

TILE = 256  # side of an encoder tile in LR pixels: a view must not wait for long
PATCH = 64  # side of a patch of latents in LR pixels: what dragging a view adds
WINDOW = 1 << 17  # largest number of LR pixels whose latents are joined to one: 104 MiB for LM-LIIF
SMALL = 1 << 17  # smallest number of output pixels for which that pays
Lattice = tuple[list[Span], list[Span]]  # the rows and the columns of boxes


class Views:
    """Rectangles of the enlargements of one picture.

    `encode` computes the features of one tile. `render` needs all tiles that `missing` names. If the decoder is not
    pointwise, the first view at each scale costs as much as the whole picture.

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
        self._tiles = cut((h, w), whole if model.encoder.receptive_field is None else tile)
        self._patches = cut((h, w), whole if reach is None else patch)
        self.tiles = [*product(*self._tiles)]
        self.encoded: set[Box] = set()
        self._key, self._window_key = object(), object()

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
        return [tile for tile in meeting(self._tiles, needed) if tile not in self.encoded]

    def render(self, size: Size, view: Box, renderer: Renderer) -> Tensor:
        """Render ``view`` (rows, columns) of the enlargement to ``size`` (H, W).

        The latents around a view are joined and kept for the next one. A pointwise renderer renders patch by patch if
        the view is small, or shows too many latents, or the decoder is not pointwise and has a single patch.

        Returns:
            (1, 3, rows, cols) in network units, not clamped.

        Raises:
            UserError: if the view does not lie in the enlargement.
        """
        if not all(0 <= a < b <= n for (a, b), n in zip(view, size, strict=True)):
            raise UserError(f"a view must lie in the picture of {size[1]}x{size[0]} pixels, got {view}")
        whole, region = self.model.prepare(self.lr, size), self.region(size, view)
        apart = area(view) < SMALL or area(region) > WINDOW or not self.model.decoder.pointwise
        if renderer.pointwise and apart:
            return self._by_patches(whole, size, view, renderer)
        return whole.part(*region).crop(*view).render(self._joined(whole, region, size), renderer)

    def bands(self, size: Size, renderer: Renderer) -> Iterator[Tensor]:
        """Yield the whole enlargement to ``size`` in bands of rows (1, 3, rows, W), from top to bottom.

        All tiles must be encoded.
        """
        for span in self._patches[0]:
            rows = self._pixel_span(0, span, size)
            if rows[0] < rows[1]:
                for first, last in tiling.cut(*rows, max(1, tiling.PIXELS // size[1])):
                    view = (first, last), (0, size[1])
                    yield self._by_patches(self.model.prepare(self.lr, size), size, view, renderer)

    def ahead(self, share: float = 0.5) -> Iterator[None]:
        """Compute the latents for scales above the trained ones, which are the same for all, one patch a step.

        It ends at once if there are none, because the decoder does not clip cells or is not pointwise, or if all
        together would take more than ``share`` of the cache. All tiles must be encoded.
        """
        clip = self.model.decoder.clip_scale
        if clip is None or not self.model.decoder.pointwise:
            return
        size = (math.ceil(self.size[0] * clip), math.ceil(self.size[1] * clip))
        whole = self.model.prepare(self.lr, size)
        patches = [*product(*self._patches)]
        for patch in patches:
            latent = self._latent(whole, patch, size)[1]
            if bytes_of(latent) * len(patches) > share * self.cache.limit:
                return
            yield

    def region(self, size: Size, view: Box) -> Box:
        """Return the LR rectangle, of whole patches, on whose latents ``view`` depends."""
        spans = [
            (math.floor(start * n / total), math.ceil(stop * n / total))
            for (start, stop), n, total in zip(view, self.size, size, strict=True)
        ]
        return around(self._patches, self._widened((spans[0], spans[1]), size))

    def close(self) -> None:
        """Drop the latents of this picture from the cache."""
        self.cache.forget(self._key)
        self.cache.forget(self._window_key)

    def _pixel_span(self, axis: int, span: Span, size: Size) -> Span:
        """Return the output rows (or columns) whose upper (left) edges lie in ``span``; patches share none."""
        scale, total, n = size[axis] / self.size[axis], size[axis], self.image.shape[2 + axis]
        first, last = (total if at == n else min(total, math.ceil(at * scale)) for at in span)
        return first, last

    def _pixels(self, patch: Box, size: Size) -> Box:
        return self._pixel_span(0, patch[0], size), self._pixel_span(1, patch[1], size)

    def _by_patches(self, whole: Enlargement, size: Size, view: Box, renderer: Renderer) -> Tensor:
        """Render ``view`` with a pointwise renderer, patch by patch."""
        out = whole.cell.new_empty(1, 3, *(stop - start for start, stop in view))
        for patch in meeting(self._patches, self.region(size, view)):
            shown = intersection(self._pixels(patch, size), view)
            if shown is not None:
                part, latent = self._latent(whole, patch, size)
                rows, cols = (slice(a - first, b - first) for (a, b), (first, _) in zip(shown, view, strict=True))
                out[:, :, rows, cols] = part.crop(*shown).render(latent, renderer)
        return out

    def _widened(self, box: Box, size: Size) -> Box:
        """Return ``box`` of LR pixels with everything that colours in it depend on."""
        reach, step = self.model.decoder.receptive_field, self.model.decoder.multiple
        spans = []
        for axis, (start, stop) in enumerate(box):
            n = self.image.shape[2 + axis]
            margin = n if reach is None else reach + math.ceil(self.size[axis] / size[axis])
            low, high = (start - margin) // step * step, math.ceil((stop + margin) / step) * step
            spans.append((max(0, low), min(n, high)))
        return spans[0], spans[1]

    def _latent(self, whole: Enlargement, patch: Box, size: Size) -> tuple[Enlargement, Latent]:
        """Return the enlargement from the widened ``patch`` alone, and its latent."""
        wide = self._widened(patch, size)
        part = whole.part(*wide)
        pixels = () if self.model.decoder.pointwise else size  # which the latent summarises
        key = (self._key, wide, *part.cell[0].tolist(), *pixels)
        latent = self.cache.get(key)
        if latent is None:
            latent = part.summarised(part.latent(self.features.read(wide).to(self.image.device)))
            self.cache.put(key, latent)
        return part, latent

    def _joined(self, whole: Enlargement, region: Box, size: Size) -> Latent:
        """Return the latent of ``region``, which consists of whole patches."""
        key = (self._window_key, region, *whole.part(*region).cell[0].tolist())
        latent = self.cache.get(key)
        if latent is None:
            self.cache.forget(self._window_key)  # that of the last view
            patches = meeting(self._patches, region)
            latent = joined([(p, self._widened(p, size), self._latent(whole, p, size)[1]) for p in patches], region)
            self.cache.put(key, latent)
        return latent


def joined(parts: list[tuple[Box, Box, Latent]], region: Box) -> Latent:
    """Join latents to that of ``region``.

    Args:
        parts: boxes that make up the region; for each the box that its latent is for, which may be larger; the latent.
        region: the rectangle.
    """
    if parts[0][1] == region:
        return parts[0][2]

    def within(box: Box, other: Box) -> tuple[slice, slice]:
        rows, cols = (slice(a - first, b - first) for (a, b), (first, _) in zip(box, other, strict=True))
        return rows, cols

    first = parts[0][2]
    size = region[0][1] - region[0][0], region[1][1] - region[1][0]
    maps = {}
    for name, like in first.tensors().items():
        axis = 2 if name == "image" else 1  # the others are channels-last
        before = (slice(None),) * axis
        maps[name] = like.new_empty(*like.shape[:axis], *size, *like.shape[axis + 2 :])
        for box, wide, latent in parts:
            maps[name][before + within(box, region)] = latent.tensors()[name][before + within(box, wide)]
    return replace(first, size=size, **maps)


def cut(size: Size, side: int) -> Lattice:
    """Cut a picture of ``size`` into rows and columns of boxes with sides of at most ``side``."""
    return tiling.cut(0, size[0], side), tiling.cut(0, size[1], side)


def meeting(lattice: Lattice, box: Box) -> list[Box]:
    """Return the boxes of ``lattice`` that share a pixel with ``box``, in row-major order."""
    rows, cols = (
        [span for span in spans if max(span[0], start) < min(span[1], stop)]
        for spans, (start, stop) in zip(lattice, box, strict=True)
    )
    return [*product(rows, cols)]


def around(lattice: Lattice, box: Box) -> Box:
    """Return the rectangle of all boxes of ``lattice`` that share a pixel with ``box``."""
    first, *_, last = meeting(lattice, box) * 2
    return (first[0][0], last[0][1]), (first[1][0], last[1][1])


def area(box: Box) -> int:
    """Return the number of pixels of a rectangle."""
    return math.prod(stop - start for start, stop in box)


def without(view: Box, held: Box | None) -> list[Box]:
    """Return rectangles that make up the pixels of ``view`` outside ``held``."""
    shared = None if held is None else intersection(view, held)
    if shared is None:
        return [view]
    (top, bottom), (left, right) = view
    (first, last), (start, stop) = shared
    parts = [
        ((top, first), (left, right)),
        ((last, bottom), (left, right)),
        ((first, last), (left, start)),
        ((first, last), (stop, right)),
    ]
    return [part for part in parts if area(part)]


def intersection(a: Box, b: Box) -> Box | None:
    """Return the rectangle that two rectangles share; None if there is none."""
    (top, bottom), (left, right) = ((max(x[0], y[0]), min(x[1], y[1])) for x, y in zip(a, b, strict=True))
    return ((top, bottom), (left, right)) if top < bottom and left < right else None
