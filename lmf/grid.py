"""Coordinates, cells, nearest latents and ensemble weights.

The only module that knows the coordinate convention. A picture covers [-1, 1] in both axes; a grid of n
cells has its centres at ``-1 + (2 i + 1) / n``; coordinates are (y, x). All grids (latents, outputs, CMSR
levels) come from one float32 expression: grids of one size coincide exactly, and centres that grids of
different sizes share differ by a rounding at most.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]

# The four latents around a point, in the order the ensemble enumerates them. The latent diagonally
# opposite to entry i is entry 3 - i.
NEIGHBOURS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
_EPS = 1e-6


def axis(cells: float, start: int = 0, stop: int | None = None, device: torch.device | str | None = None) -> Tensor:
    """Centres of the cells ``start .. stop - 1`` of an axis cut into ``cells`` cells.

    ``cells`` may be fractional: an image padded from h to h' rows and enlarged by H / h has H h' / h rows,
    of which only the first H are asked for. Returns float32 (stop - start,).
    """
    if stop is None:
        stop = round(cells)
    index = torch.arange(start, stop, device=device, dtype=torch.float32)
    return index * (2 / cells) + (-1 + 1 / cells)


@dataclass(frozen=True)
class Strip:
    """Rows ``start .. stop - 1`` of an image of ``height`` rows, taken for an image of its own."""

    start: int
    stop: int
    height: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    def within(self, y: Tensor) -> Tensor:
        """Coordinates ``y`` (n,) of the whole image as coordinates of the strip, which may lie beyond [-1, 1].

        They stay where they are relative to the centre of the row that holds them, rounding and all: where they
        coincide with it they still do, and what is rendered from the strip is what is rendered from the whole.
        """
        row = (((y + 1) * self.height - 1) / 2).round().long().clamp(self.start, self.stop - 1)
        centre, own = axis(self.height, device=y.device)[row], axis(self.size, device=y.device)[row - self.start]
        return ((y - centre) * (self.height / self.size)) + own


@dataclass(frozen=True)
class Grid:
    """A rectangle of output pixels, cut from a picture of ``cells`` (rows, columns) over [-1, 1]^2.

    ``rows`` and ``cols`` are half-open ranges of pixel indices. ``Grid.of(H, W)`` is the whole picture. With a
    ``strip``, [-1, 1] is that strip of the LR image, and `cell` and `coord` are in its coordinates.
    """

    cells: tuple[float, float]
    rows: tuple[int, int]
    cols: tuple[int, int]
    strip: Strip | None = None

    @classmethod
    def of(cls, height: int, width: int) -> Grid:
        return cls((height, width), (0, height), (0, width))

    @property
    def size(self) -> Size:
        return self.rows[1] - self.rows[0], self.cols[1] - self.cols[0]

    @property
    def cell(self) -> tuple[float, float]:
        """Size of one output pixel, (2 / H, 2 / W)."""
        share = self.strip.height / self.strip.size if self.strip else 1
        return 2 / self.cells[0] * share, 2 / self.cells[1]

    def band(self, start: int, stop: int) -> Grid:
        """Rows ``start .. stop - 1`` of this rectangle."""
        return replace(self, rows=(self.rows[0] + start, self.rows[0] + stop))

    def axes(self, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """Pixel centres of the rows, float32 (rows,), and of the columns, float32 (cols,)."""
        y, x = (axis(n, *span, device=device) for n, span in zip(self.cells, (self.rows, self.cols), strict=True))
        return self.strip.within(y) if self.strip else y, x

    def coord(self, device: torch.device | str | None = None) -> Tensor:
        """Pixel centres, row-major, float32 (rows * cols, 2)."""
        return torch.stack(torch.meshgrid(*self.axes(device), indexing="ij"), dim=-1).flatten(0, 1)


def clip_cell(cell: Tensor, size: Size, max_scale: float) -> Tensor:
    """Cell clipping of LTE: a cell smaller than the smallest seen in training is replaced by that one.

    ``cell`` (B, 2) in [-1, 1] units, ``size`` the LR (h, w). Equals ``cell * max(scale / max_scale, 1)``.
    """
    smallest = cell.new_tensor([2 / (size[0] * max_scale), 2 / (size[1] * max_scale)])
    return torch.maximum(cell, smallest)


def relative_cell(cell: Tensor, size: Size) -> Tensor:
    """``cell`` (B, 2) in units where one latent cell spans 2."""
    return cell * cell.new_tensor(size)


def latent_centre(index: Tensor, size: Size) -> Tensor:
    """Centres (..., 2) of the latents with flat row-major ``index`` (...)."""
    h, w = size
    y, x = axis(h, device=index.device), axis(w, device=index.device)
    return torch.stack([y[index // w], x[index % w]], dim=-1)


def nearest(coord: Tensor, size: Size) -> Tensor:
    """Flat row-major index (...) of the latent cell that holds each ``coord`` (..., 2).

    Rounds ``((c + 1) n - 1) / 2`` half to even, like ``grid_sample(mode="nearest", align_corners=False)``,
    and clamps to the picture. NaN counts as the first row or column.
    """
    h, w = size
    index = (((coord + 1) * coord.new_tensor(size) - 1) / 2).round().nan_to_num(0)
    y, x = index[..., 0].clamp(0, h - 1), index[..., 1].clamp(0, w - 1)
    return y.long() * w + x.long()


def shifted(coord: Tensor, dy: float, dx: float) -> Tensor:
    """``coord`` moved by (dy, dx) + 1e-6 and clamped to ±(1 - 1e-6)."""
    return (coord + coord.new_tensor([dy + _EPS, dx + _EPS])).clamp(-1 + _EPS, 1 - _EPS)


def ensemble(coord: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """The four latents around each coordinate, and how to blend what they predict (LIIF, eq. 4).

    Args:
        coord: (B, Q, 2) in [-1, 1].
        size: (h, w) of the latent grid.

    Returns:
        index: int64 (4, B, Q), flat row-major latents, in the order of ``NEIGHBOURS``.
        rel: (4, B, Q, 2), coordinate relative to each latent, one latent cell spanning 2 units.
        weight: (4, B, Q), summing to 1: the area of the rectangle towards the *opposite* latent. On the
            border neighbours coincide; the pairing stays by index.
    """
    h, w = size
    index = torch.stack([nearest(shifted(coord, dy / h, dx / w), size) for dy, dx in NEIGHBOURS])
    rel = (coord - latent_centre(index, size)) * coord.new_tensor(size)
    area = rel.prod(dim=-1).abs() + 1e-9
    return index, rel, area.flip(0) / area.sum(dim=0)


def take(latents: Tensor, index: Tensor) -> Tensor:
    """Rows of channels-last ``latents`` (B, h, w, C) at flat ``index`` (B, Q): (B, Q, C)."""
    b, h, w, c = latents.shape
    offset = torch.arange(b, device=index.device)[:, None] * (h * w)
    return latents.reshape(b * h * w, c).index_select(0, (index + offset).flatten()).view(*index.shape, c)


def bilinear(image: Tensor, coord: Tensor) -> Tensor:
    """``image`` (B, C, h, w) sampled at ``coord`` (B, Q, 2), border repeated: (B, Q, C)."""
    out = F.grid_sample(
        image, coord.flip(-1)[:, None].to(image.dtype), mode="bilinear", padding_mode="border", align_corners=False
    )
    return out[:, :, 0].transpose(1, 2)


def unfold(feat: Tensor) -> Tensor:
    """3 x 3 neighbourhoods of ``feat`` (B, C, h, w), zero-padded: (B, h, w, 9 C), index 9 c + 3 dy + dx.

    Contiguous, so that `take` need not copy the map.
    """
    b, c, h, w = feat.shape
    return F.unfold(feat, 3, padding=1).transpose(1, 2).reshape(b, h, w, 9 * c).contiguous()
