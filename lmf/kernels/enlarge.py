"""Enlarges bilinearly with the compiled CPU kernel (enlarge.h), or with PyTorch where that does not apply."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lmf.grid import Grid
from lmf.kernels import native, ops
from lmf.kernels.build import library
from lmf.kernels.checks import check_enlarge
from lmf.kernels.region import Index, Region

Taps = tuple[
    Tensor, Tensor, Tensor
]  # for each pixel of an axis: two source pixels, int64, and the weight of the second
STRETCH = 64  # rows that share the source rows they read


def enlarge(image: Tensor, source: Grid, target: Grid, out: Tensor | None = None, part: Region | None = None) -> Tensor:
    """Enlarge a picture from one grid to another bilinearly, with the border repeated.

    Args:
        image: (C, rows, cols), the pixels of ``source``.
        source: the grid of ``image``.
        target: the grid to enlarge to.
        out: (C, rows, cols) of ``target`` to fill; a new tensor by default.
        part: the pixels to fill; all by default.

    Returns:
        ``out``.

    Raises:
        ValueError: if the tensors do not fit the grids or each other, or ``part`` does not lie in ``target``.
    """
    out = image.new_empty(*image.shape[:-2], *target.size) if out is None else out
    check_enlarge(image, source, target, out, part)
    if not out.numel():
        return out
    rows, columns = (along(source, target, axis, image) for axis in (0, 1))
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (image, out))
    graded = torch.is_grad_enabled() and image.requires_grad
    compiled = library() if plain and not graded and out.is_contiguous() and ops.forced != "reference" else None
    if compiled is None:
        enlarge_by_torch(out, image, rows, columns, part)
        return out
    threads = max(1, min(torch.get_num_threads(), out.numel() // 4096))
    kept = native.Kept()
    region = native.Region.of(kept, Region.whole(target.size, STRETCH) if part is None else part)
    structs = (ctypes.byref(struct) for struct in (native.Taps.of(kept, rows), native.Taps.of(kept, columns), region))
    wrong = compiled.enlarge_float(kept.address(image), *image.shape, *structs, kept.address(out), threads)
    if wrong:
        raise ValueError(f"{wrong.decode()} has rows or columns outside the picture, or out of order")
    return out


def along(source: Grid, target: Grid, axis: int, like: Tensor) -> Taps:
    """Return the `taps` from ``source`` to ``target`` along one axis, with the dtype and device of ``like``."""
    spans = [(g.cells[axis], (g.rows, g.cols)[axis]) for g in (source, target)]
    return taps(*spans[0], *spans[1], like)


def taps(
    source: float, source_span: tuple[int, int], target: float, target_span: tuple[int, int], like: Tensor
) -> Taps:
    """Return, for each target pixel of an axis, the two source pixels around it and the weight of the second."""
    first, second, position = around(source, source_span, target, target_span)
    weight = torch.from_numpy(position - first)
    return torch.from_numpy(first).to(like.device), torch.from_numpy(second).to(like.device), weight.to(like)


@lru_cache(maxsize=64)
def around(
    source: float, source_span: tuple[int, int], target: float, target_span: tuple[int, int]
) -> tuple[Index, Index, npt.NDArray[np.float64]]:
    """Return, for each target pixel of an axis, the two source pixels around it and its position among them.

    It is cached because planning and rendering both need it. Do not change the arrays.
    """
    last = source_span[1] - source_span[0] - 1
    position = (np.arange(*target_span, dtype=np.float64) + 0.5) * (source / target) - 0.5 - source_span[0]
    np.clip(position, 0, last, out=position)
    first = position.astype(np.int64)
    return first, np.minimum(first + 1, last, dtype=np.int64), position


def enlarge_by_torch(out: Tensor, image: Tensor, rows: Taps, columns: Taps, part: Region | None) -> None:
    """Fill ``out`` (C, H, W), or a part, with ``image`` (C, h, w) sampled at ``rows`` (H,) and ``columns`` (W,)."""
    (above, below, down), (left, right, along) = rows, columns
    first, last, mask = above.tolist(), below.tolist(), None if part is None else part.mask.to(out.device)
    stretch = max(1, 131072 // len(left))
    for start in range(0, len(above), stretch):
        stop = min(start + stretch, len(above))
        top, bottom = first[start], last[stop - 1] + 1
        x = image[:, top:bottom].mT.contiguous()  # (C, columns, source rows): selecting whole columns is fast
        x = x.index_select(1, left).lerp_(x.index_select(1, right), along[:, None]).mT.contiguous()
        upper, lower = (x.index_select(1, index[start:stop] - top) for index in (above, below))
        upper.lerp_(lower, down[start:stop, None])
        out[:, start:stop] = upper if mask is None else torch.where(mask[start:stop], upper, out[:, start:stop])
