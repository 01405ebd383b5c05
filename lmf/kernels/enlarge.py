"""Bilinear enlargement, by the compiled CPU kernel (enlarge.h) where that serves, else by torch."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lmf.kernels import ops
from lmf.kernels.build import library

Taps = tuple[Tensor, Tensor, Tensor]  # for each pixel of an axis the two around it, int64, and the weight of the second
STRETCH = 64  # rows that share what they read


@dataclass(frozen=True)
class Part:
    """Pixels that lie in some cells of a coarse grid.

    Attributes:
        cells: bool (h, w), which.
        y: int64 (H,), the row of cells that each row of pixels lies in, ascending.
        x: int64 (W,), the same for columns.
    """

    cells: Tensor
    y: Tensor
    x: Tensor

    @property
    def mask(self) -> Tensor:
        """bool (H, W), the pixels; whole rows are cheap to repeat."""
        return self.cells.index_select(1, self.x).index_select(0, self.y)

    def blocks(self) -> tuple[Tensor, Tensor, Tensor]:
        """First pixel (h + 1,) and first run (h + 1,) of each row of cells, and their ends; runs (n, 2) of columns."""
        top, left = (
            torch.searchsorted(own, torch.arange(n + 1))
            for own, n in zip((self.y, self.x), self.cells.shape, strict=True)
        )
        edges = F.pad(self.cells.to(torch.int8), (1, 1)).diff(dim=1)  # 1 where a run begins, -1 after it
        starts, stops = (edges == 1).nonzero(), (edges == -1).nonzero()
        first = torch.searchsorted(starts[:, 0].contiguous(), torch.arange(len(self.cells) + 1))
        return top, first, torch.stack([left[starts[:, 1]], left[stops[:, 1]]], dim=1)


def enlarge_into(out: Tensor, image: Tensor, rows: Taps, columns: Taps, part: Part | None = None) -> None:
    """Fills ``out`` (C, H, W), or a part, with ``image`` (C, h, w) sampled at ``rows`` (H,) and ``columns`` (W,)."""
    (above, below, down), (left, right, along) = rows, columns
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (image, out))
    graded = torch.is_grad_enabled() and image.requires_grad
    if plain and not graded and out.is_contiguous() and ops.forced != "reference" and (native := library()) is not None:
        threads = max(1, min(torch.get_num_threads(), out.numel() // 4096))
        blocks = stretches(len(above), len(left)) if part is None else part.blocks()
        tensors = (image.contiguous(), above, below, down, left, right, along, *blocks, out)
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in tensors]
        sizes = [ctypes.c_int64(n) for n in (*image.shape, len(above), len(left), len(blocks[0]) - 1, threads)]
        native.enlarge_float(*pointers, *sizes)
        return
    first, last, mask = above.tolist(), below.tolist(), None if part is None else part.mask
    stretch = max(1, 131072 // len(left))
    for start in range(0, len(above), stretch):
        stop = min(start + stretch, len(above))
        top, bottom = first[start], last[stop - 1] + 1
        x = image[:, top:bottom].mT.contiguous()  # (C, columns, source rows): whole columns are cheap to pick
        x = x.index_select(1, left).lerp_(x.index_select(1, right), along[:, None]).mT.contiguous()
        upper, lower = (x.index_select(1, index[start:stop] - top) for index in (above, below))
        upper.lerp_(lower, down[start:stop, None])
        out[:, start:stop] = upper if mask is None else torch.where(mask[start:stop], upper, out[:, start:stop])


def stretches(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The blocks of a whole picture."""
    rows = torch.arange(0, height + STRETCH, STRETCH).clamp_(max=height)
    runs = torch.arange(len(rows))
    return rows, runs, torch.tensor([[0, width]]).expand(len(rows), 2).contiguous()
