"""Renders heat fields with the compiled CPU kernel (field.h)."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from lmf.kernels.build import library
from lmf.kernels.native import Kept

_int, _pointer = ctypes.c_int64, ctypes.c_void_p


class Field(ctypes.Structure):
    """Mirrors ``struct Field`` of field.h."""

    _fields_ = [
        *((name, _int) for name in ("batch", "height", "width", "waves")),
        *((name, _pointer) for name in ("latents", "frequencies", "decay", "base")),
    ]


SIGNATURES = {  # arguments after the Field
    "field_points": [_pointer, _pointer, _int, _pointer, _int],
    "field_grid": [_pointer, _pointer, _int, _pointer, _pointer, _int, _pointer, _int],
}


def serves(latents: Tensor) -> bool:
    """Return whether this implementation supports these tensors here."""
    waves = latents.shape[-1] // 4
    return waves % 16 == 0 and latents.dtype == torch.float32 and latents.device.type == "cpu" and library() is not None


def render(latents: Tensor, frequencies: Tensor, decay: Tensor, base: Tensor, index: Tensor, offset: Tensor) -> Tensor:
    """Render scattered places; see `lmf.kernels.fields.render`."""
    rgb = latents.new_empty(*index.shape, 3)
    if rgb.numel():
        call = Call(latents, frequencies, decay, base)
        call("field_points", call.address(index), call.address(offset), index.shape[1], rgb)
    return rgb


def render_grid(
    latents: Tensor,
    frequencies: Tensor,
    decay: Tensor,
    base: Tensor,
    row: Tensor,
    row_offset: Tensor,
    column: Tensor,
    column_offset: Tensor,
) -> Tensor:
    """Render a grid; see `lmf.kernels.fields.render_grid`."""
    rgb = latents.new_empty(len(latents), 3, len(row), len(column))
    if rgb.numel():
        call = Call(latents, frequencies, decay, base)
        rows = call.address(row), call.address(row_offset), len(row)
        call("field_grid", *rows, call.address(column), call.address(column_offset), len(column), rgb)
    return rgb


class Call(Kept):
    """A call of the library: its `Field` and the tensors that it points to."""

    def __init__(self, latents: Tensor, frequencies: Tensor, decay: Tensor, base: Tensor) -> None:
        super().__init__()
        batch, height, width, numbers = latents.shape
        addresses = map(self.address, (latents, frequencies, decay, base))
        self.field = Field(batch, height, width, numbers // 4, *addresses)

    def __call__(self, function: str, *args: int | Tensor | None) -> None:
        """Call ``function`` with ``args``, of which the last is the tensor to render into."""
        *places, rgb = args
        assert isinstance(rgb, Tensor)
        threads = max(1, min(torch.get_num_threads(), rgb.numel() // 1536))
        entry = getattr(library(), function)
        entry.argtypes = [ctypes.POINTER(Field), *SIGNATURES[function]]
        entry(ctypes.byref(self.field), *places, rgb.data_ptr(), threads)
