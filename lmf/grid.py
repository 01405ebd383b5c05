"""Coordinates, cells, nearest latents and ensemble weights.

This is the only module that knows the coordinate convention. A picture covers [-1, 1] along both axes, and the
cells of an axis cut into n have their centres at ``-1 + (2 i + 1) / n``. Coordinates are (y, x). All grids (latents,
outputs, CMSR levels) come from one float32 expression. Grids of equal size therefore coincide exactly, and a centre
shared by grids of different sizes differs by at most one rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]

# Directions to the four latents around a point, in the order of the ensemble. Entry 3 - i is diagonally opposite to
# entry i.
NEIGHBOURS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
_EPS = 1e-6


def axis(cells: float, start: int = 0, stop: int | None = None, device: torch.device | str | None = None) -> Tensor:
    """Return the centres of cells ``start .. stop - 1`` of an axis cut into ``cells`` cells.

    Args:
        cells: number of cells over [-1, 1]. It may be fractional: an image padded from h to h' rows and enlarged by
            H / h has H h' / h rows, of which only the first H are used.
        start: first cell.
        stop: end of the range; ``round(cells)`` by default.
        device: device of the result.

    Returns:
        float32 (stop - start,).
    """
    if stop is None:
        stop = round(cells)
    index = torch.arange(start, stop, device=device, dtype=torch.float32)
    return index * (2 / cells) + (-1 + 1 / cells)


@dataclass(frozen=True)
class Strip:
    """Rows ``start .. stop - 1`` of an image of ``total`` rows, treated as a separate image; or columns likewise."""

    start: int
    stop: int
    total: int

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.stop - self.start

    @property
    def stretch(self) -> float:
        """Factor from coordinates of the whole image to coordinates of the strip."""
        return self.total / self.size

    def within(self, y: Tensor) -> Tensor:
        """Convert row coordinates of the whole image to coordinates of the strip.

        The offset from the centre of the row that holds a coordinate is kept, including its rounding. A coordinate
        at a row's centre stays exactly at that centre, so rendering from the strip matches rendering from the whole.

        Args:
            y: (n,) in [-1, 1] of the whole image.

        Returns:
            (n,), which may lie beyond [-1, 1].
        """
        row = (((y + 1) * self.total - 1) / 2).round().long().clamp(self.start, self.stop - 1)
        centre = axis(self.total, device=y.device)[row]
        strip_centre = axis(self.size, device=y.device)[row - self.start]
        return ((y - centre) * self.stretch) + strip_centre


class Position(NamedTuple):
    """Places along an axis of latent cells."""

    number: Tensor  # int64 (n,), the cell that holds each place
    offset: Tensor  # (n,), distance from the centre of that cell, which spans [-0.5, 0.5]


@dataclass(frozen=True)
class Grid:
    """A rectangle of output pixels; ``Grid.of(H, W)`` is a whole picture.

    Attributes:
        cells: rows and columns of the whole picture over [-1, 1]^2; may be fractional, see `axis`.
        rows, cols: half-open ranges of pixel indices.
        strip: if set, [-1, 1] spans this strip of rows of the LR image, and `cell` and `coord` use its coordinates.
        column_strip: the same for columns.
    """

    cells: tuple[float, float]
    rows: tuple[int, int]
    cols: tuple[int, int]
    strip: Strip | None = None
    column_strip: Strip | None = None

    @classmethod
    def of(cls, height: int, width: int) -> Grid:
        """Return the grid of a whole picture."""
        return cls((height, width), (0, height), (0, width))

    @property
    def size(self) -> Size:
        """Number of rows and columns of the rectangle."""
        return self.rows[1] - self.rows[0], self.cols[1] - self.cols[0]

    @property
    def cell(self) -> tuple[float, float]:
        """Height and width of one output pixel in coordinates, (2 / H, 2 / W)."""
        height, width = (
            2 / n * (strip.stretch if strip else 1)
            for n, strip in zip(self.cells, (self.strip, self.column_strip), strict=True)
        )
        return height, width

    def latents(self, size: Size) -> Grid:
        """Return the grid of the latents that [-1, 1] spans, as a part of the grid of all latents.

        Args:
            size: (h, w) of the latents within the strips.
        """
        pairs = zip((self.strip, self.column_strip), size, strict=True)
        rows, cols = (strip or Strip(0, n, n) for strip, n in pairs)
        spans = (rows.start, rows.stop), (cols.start, cols.stop)
        return replace(self, cells=(rows.total, cols.total), rows=spans[0], cols=spans[1])

    def band(self, start: int, stop: int) -> Grid:
        """Return rows ``start .. stop - 1`` of this rectangle."""
        return replace(self, rows=(self.rows[0] + start, self.rows[0] + stop))

    def axes(
        self, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Return the pixel centres along y (rows,) and along x (cols,), computed in float32 and converted."""
        y, x = (axis(n, *span, device=device) for n, span in zip(self.cells, (self.rows, self.cols), strict=True))
        y = self.strip.within(y) if self.strip else y
        x = self.column_strip.within(x) if self.column_strip else x
        return y.to(dtype), x.to(dtype)

    def holders(
        self, size: Size, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> tuple[Position, Position]:
        """Find the latent cells that hold the pixel centres, along y and along x.

        A centre on the border of two cells lies in the lower or right one. Positions are computed from the numbers of
        pixels in float64 on the CPU. They are exact in large pictures, and strips do not change them.

        Args:
            size: (h, w) of the latents that [-1, 1] spans.
            device: device of the results.
            dtype: type of the offsets.
        """
        found, latents = [], self.latents(size)
        axes = zip(self.cells, (self.rows, self.cols), latents.cells, (latents.rows, latents.cols), strict=True)
        for cells, span, total, held in axes:
            middle = torch.arange(2 * span[0] + 1, 2 * span[1] + 1, 2, dtype=torch.float64) * total / (2 * cells)
            index = (middle + 1e-9).floor().clamp(held[0], held[1] - 1)
            offset = (middle - index - 0.5).to(dtype)
            found.append(Position((index.long() - held[0]).to(device), offset.to(device)))
        return found[0], found[1]

    def coord(self, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return all pixel centres in row-major order (rows * cols, 2); see `axes`."""
        return torch.stack(torch.meshgrid(*self.axes(device, dtype), indexing="ij"), dim=-1).flatten(0, 1)


def clip_cell(cell: Tensor, size: Size, max_scale: float) -> Tensor:
    """Replace cells smaller than the smallest one seen in training by that one (LTE, section 3.4).

    This equals ``cell * max(scale / max_scale, 1)``.

    Args:
        cell: (B, 2) size of an output pixel in [-1, 1] units.
        size: (h, w) of the latent grid.
        max_scale: largest scale seen in training.

    Returns:
        (B, 2).
    """
    smallest = cell.new_tensor([2 / (size[0] * max_scale), 2 / (size[1] * max_scale)])
    return torch.maximum(cell, smallest)


def relative_cell(cell: Tensor, size: Size) -> Tensor:
    """Convert ``cell`` (B, 2) to units in which one latent cell of a ``size`` (h, w) grid spans 2."""
    return cell * cell.new_tensor(size)


def latent_centre(index: Tensor, size: Size) -> Tensor:
    """Return the centres (..., 2) of the latents at flat row-major ``index`` (...) of a ``size`` (h, w) grid."""
    h, w = size
    y, x = axis(h, device=index.device), axis(w, device=index.device)
    return torch.stack([y[index // w], x[index % w]], dim=-1)


def nearest(coord: Tensor, size: Size) -> Tensor:
    """Return the flat row-major index of the latent cell that holds each coordinate.

    The position ``((c + 1) n - 1) / 2`` is rounded half to even, like
    ``grid_sample(mode="nearest", align_corners=False)``, and clamped to the grid. NaN counts as the
    first row or column.

    Args:
        coord: (..., 2) as (y, x).
        size: (h, w) of the latent grid.

    Returns:
        int64 (...).
    """
    h, w = size
    index = (((coord + 1) * coord.new_tensor(size) - 1) / 2).round().nan_to_num(0)
    y, x = index[..., 0].clamp(0, h - 1), index[..., 1].clamp(0, w - 1)
    return y.long() * w + x.long()


def holder(coord: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Find the latent cell that holds each coordinate.

    A coordinate on the border of two cells lies in the lower or right one, also after the rounding of float32. NaN
    counts as the first row or column.

    Args:
        coord: (..., 2) as (y, x) in [-1, 1].
        size: (h, w) of the latent grid.

    Returns:
        index: int64 (...), flat row-major index of the cell.
        offset: (..., 2), position relative to the centre of the cell, which spans [-0.5, 0.5].
    """
    h, w = size
    n = coord.new_tensor(size)
    index = ((coord + 1) * (n / 2) + n * 2.5e-7).floor().nan_to_num(0)
    y, x = index[..., 0].clamp(0, h - 1), index[..., 1].clamp(0, w - 1)
    centre = (2 * torch.stack([y, x], dim=-1) + 1 - n) / n
    return y.long() * w + x.long(), (coord - centre) * (n / 2)


def shifted(coord: Tensor, dy: float, dx: float) -> Tensor:
    """Move ``coord`` (..., 2) by (dy, dx) + 1e-6 and clamp it to ±(1 - 1e-6)."""
    return (coord + coord.new_tensor([dy + _EPS, dx + _EPS])).clamp(-1 + _EPS, 1 - _EPS)


def ensemble(coord: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Find the four latents around each coordinate and the weights of their predictions (LIIF, eq. 4).

    Args:
        coord: (B, Q, 2) in [-1, 1].
        size: (h, w) of the latent grid.

    Returns:
        index: int64 (4, B, Q), flat row-major index of each latent, in the order of ``NEIGHBOURS``.
        rel: (4, B, Q, 2), coordinate relative to each latent; one latent cell spans 2 units.
        weight: (4, B, Q), summing to 1. A latent's weight is the area of the rectangle between the coordinate and
            the *opposite* latent. At the border neighbours coincide; they are still paired by index.
    """
    h, w = size
    index = torch.stack([nearest(shifted(coord, dy / h, dx / w), size) for dy, dx in NEIGHBOURS])
    rel = (coord - latent_centre(index, size)) * coord.new_tensor(size)
    area = rel.prod(dim=-1).abs() + 1e-9
    return index, rel, area.flip(0) / area.sum(dim=0)


def take(latents: Tensor, index: Tensor) -> Tensor:
    """Gather vectors (B, Q, C) of channels-last ``latents`` (B, h, w, C) at flat row-major ``index`` (B, Q)."""
    b, h, w, c = latents.shape
    offset = torch.arange(b, device=index.device)[:, None] * (h * w)
    return latents.reshape(b * h * w, c).index_select(0, (index + offset).flatten()).view(*index.shape, c)


def bilinear(image: Tensor, coord: Tensor) -> Tensor:
    """Sample ``image`` (B, C, h, w) bilinearly at ``coord`` (B, Q, 2) with the border repeated: (B, Q, C)."""
    out = F.grid_sample(
        image, coord.flip(-1)[:, None].to(image.dtype), mode="bilinear", padding_mode="border", align_corners=False
    )
    return out[:, :, 0].transpose(1, 2)


def unfold(feat: Tensor) -> Tensor:
    """Unfold ``feat`` (B, C, h, w) into zero-padded 3 x 3 neighbourhoods (B, h, w, 9 C).

    Channel 9 c + 3 dy + dx holds channel c at offset (dy - 1, dx - 1). The result is contiguous, so `take` does not
    copy it.
    """
    b, c, h, w = feat.shape
    return F.unfold(feat, 3, padding=1).transpose(1, 2).reshape(b, h, w, 9 * c).contiguous()


def reflected(n: int, total: int, device: torch.device) -> Tensor:
    """Reflect indices 0 .. ``total`` - 1 into 0 .. ``n`` - 1 without repeating the edge: int64 (total,)."""
    period = max(1, 2 * (n - 1))
    index = torch.arange(total, device=device) % period
    return torch.where(index < n, index, period - index)
