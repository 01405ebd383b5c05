"""The functions and structs of the compiled library for ctypes."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from torch import Tensor

from lmf.kernels import region

_int, _pointer = ctypes.c_int64, ctypes.c_void_p


class Problem(ctypes.Structure):
    """Mirrors ``struct Problem`` of tile.h."""

    _fields_ = [
        *((name, _int) for name in ("batch", "height", "width", "row", "rows", "depth", "features")),
        *((name, _int) for name in ("stride", "batch_stride", "code_stride", "code_batch_stride", "threads")),
        *((name, _pointer) for name in ("modulation", "code", "phase", "first", "hidden", "out")),
        *((name, _pointer) for name in ("bias", "out_bias", "first_back", "hidden_back", "out_back")),
        *((name, _pointer) for name in ("grad_modulation", "grad_code", "grads")),
    ]


class Region(ctypes.Structure):
    """Mirrors ``struct Region`` of enlarge.h."""

    _fields_ = [
        *((name, _pointer) for name in ("rows", "first", "runs")),
        *((name, _int) for name in ("blocks", "count")),
    ]

    @classmethod
    def of(cls, kept: Kept, own: region.Region) -> Region:
        """Convert a region, whose tensors ``kept`` keeps."""
        return cls(*map(kept.address, (own.rows, own.first, own.runs)), len(own.rows) - 1, len(own.runs))


class Taps(ctypes.Structure):
    """Mirrors ``struct Taps`` of enlarge.h."""

    _fields_ = [*((name, _pointer) for name in ("first", "second", "weight")), ("count", _int)]

    @classmethod
    def of(cls, kept: Kept, taps: tuple[Tensor, Tensor, Tensor]) -> Taps:
        """Convert taps, whose tensors ``kept`` keeps."""
        return cls(*map(kept.address, taps), len(taps[0]))


class Layer(ctypes.Structure):
    """Mirrors ``struct Layer`` of layers.h."""

    _fields_ = [
        ("problem", Problem),
        *((name, _pointer) for name in ("y", "x")),
        *((name, _int) for name in ("height", "width")),
        *((name, Region) for name in ("part", "shown")),
        *((name, Taps) for name in ("rows", "columns")),
    ]


class Convolution(ctypes.Structure):
    """Mirrors ``struct Convolution`` of winograd.h."""

    _fields_ = [
        *((name, _int) for name in ("batch", "height", "width", "inputs", "outputs")),
        *((name, _int) for name in ("x_stride", "y_stride", "skip_stride", "relu")),
        *((name, _int) for name in ("weight_out", "weight_in", "weight_row", "weight_column")),
        ("scale", ctypes.c_double),
        *((name, _pointer) for name in ("x", "weight", "bias", "skip", "y")),
    ]


class Kept:
    """Keeps tensors alive whose addresses the library has received."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []

    def address(self, tensor: Tensor | None) -> int | None:
        """Return the address of ``tensor``, copied if it is not contiguous; None for None."""
        return None if tensor is None else self.strided(tensor.contiguous())

    def strided(self, tensor: Tensor) -> int:
        """Return the address of ``tensor``, whose strides the library receives as well."""
        self.tensors.append(tensor)
        return tensor.data_ptr()


_STRUCTS: tuple[type[ctypes.Structure], ...] = (
    Problem,
    Region,
    Taps,
    Layer,
    Convolution,
)  # in the order of struct_size in render.cpp, then convolution_size
_CALL: dict[str, list[Any]] = {  # arguments after the Problem
    "points": [_pointer, _int, _pointer],
    "points_backward": [_pointer, _int, _pointer],
    "grid": [_pointer, _int, _pointer, _int, _pointer, _int, _int, _pointer],
    "layers": [ctypes.POINTER(Layer), _int, _pointer, _int, _int, _pointer, _int, _int, _int],
}


def load(path: Path) -> ctypes.CDLL:
    """Load the library in ``path`` and declare the signatures of its functions.

    Raises:
        OSError: if the file is not such a library, or its structs have other sizes than those here.
    """
    library = ctypes.CDLL(str(path))
    try:
        library.struct_size.argtypes, library.struct_size.restype = [_int], _int
        library.convolution_size.restype = library.register_bytes.restype = _int
        sizes = [*map(library.struct_size, range(len(_STRUCTS) - 1)), library.convolution_size()]
        own = [*map(ctypes.sizeof, _STRUCTS)]
        if sizes != own:
            raise OSError(f"{path}: its structs have {sizes} bytes instead of {own}")
        for name, arguments in _CALL.items():
            for kind in ("float_16", "float_32", "double_16", "double_32"):
                function = getattr(library, f"{name}_{kind}")
                function.argtypes = [ctypes.POINTER(Problem), *arguments]
                function.restype = ctypes.c_char_p if name == "layers" else None
        taps, part = ctypes.POINTER(Taps), ctypes.POINTER(Region)
        library.enlarge_float.argtypes = [_pointer, _int, _int, _int, taps, taps, part, _pointer, _int]
        library.enlarge_float.restype = ctypes.c_char_p
        convolution = ctypes.POINTER(Convolution)
        library.convolutions.argtypes, library.convolutions.restype = [convolution, _int, _int], None
        library.weight_gradient.argtypes = [convolution, _pointer, _pointer, _int]
        library.weight_gradient.restype = None
    except AttributeError as error:
        raise OSError(f"{path}: {error}") from error
    return library
