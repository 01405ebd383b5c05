"""Bilinear enlargement, by the compiled CPU kernel (enlarge.h) where that serves, else by torch."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from lmf.kernels import ops
from lmf.kernels.build import library

Taps = tuple[Tensor, Tensor, Tensor]  # for each pixel of an axis the two around it, int64, and the weight of the second


def enlarge_into(out: Tensor, image: Tensor, rows: Taps, columns: Taps) -> None:
    """Fills ``out`` (C, H, W) with ``image`` (C, h, w) sampled at ``rows`` (H,) and ``columns`` (W,)."""
    (above, below, down), (left, right, along) = rows, columns
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (image, out))
    graded = torch.is_grad_enabled() and image.requires_grad
    if plain and not graded and out.is_contiguous() and ops.forced != "reference" and (native := library()) is not None:
        threads = max(1, min(torch.get_num_threads(), out.numel() // 4096))
        tensors = (image.contiguous(), above, below, down, left, right, along, out)
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in tensors]
        sizes = [ctypes.c_int64(n) for n in (*image.shape, len(above), len(left), threads)]
        native.enlarge_float(*pointers, *sizes)
        return
    first, last = above.tolist(), below.tolist()
    stretch = max(1, 131072 // len(left))
    for start in range(0, len(above), stretch):
        stop = min(start + stretch, len(above))
        top, bottom = first[start], last[stop - 1] + 1
        x = image[:, top:bottom].mT.contiguous()  # (C, columns, source rows): whole columns are cheap to pick
        x = x.index_select(1, left).lerp_(x.index_select(1, right), along[:, None]).mT.contiguous()
        upper, lower = (x.index_select(1, index[start:stop] - top) for index in (above, below))
        out[:, start:stop] = upper.lerp_(lower, down[start:stop, None])
