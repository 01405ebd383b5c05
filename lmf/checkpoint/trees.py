"""Reads trees of arrays that JAX programs pickle, without executing anything in the file."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from lmf.checkpoint.pickles import CheckpointError
from lmf.errors import one_line

_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # start of files that torch.save wrote before it used zip archives


def is_tree(path: Path) -> bool:
    """Return whether the file at ``path`` is a plain pickle, which PyTorch does not write."""
    with path.open("rb") as file:
        start = file.read(len(_TORCH))
    return len(start) > 1 and start[0] == 0x80 and start[1] <= pickle.HIGHEST_PROTOCOL and start != _TORCH


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a pickled ``{"model": {"params": ...}, ...}``.

    Only mappings, plain values and arrays of numbers are created.

    Returns:
        The other entries of the file, and the arrays by path, such as ``params/out_conv/kernel``.

    Raises:
        CheckpointError: if the file is damaged, holds something else, or names any other class or function.
    """
    try:
        with path.open("rb") as file:
            content = TreeUnpickler(file).load()
        if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
            raise ValueError("it does not hold {'model': ...}")
        return {k: v for k, v in content.items() if k != "model"}, flatten(content["model"])
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({one_line(error)})") from error
    except Refused as error:
        raise CheckpointError(f"{path}: not a checkpoint that safe unpickling accepts (it names {error})") from error
    except Exception as error:  # a damaged pickle can raise any type
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({one_line(error)})") from error


class Refused(pickle.UnpicklingError):
    """Raised for a class or function that may not appear in a file."""


class TreeUnpickler(pickle.Unpickler):
    """Creates stand-ins for mappings of flax and arrays of NumPy, and refuses all other classes and functions.

    The stand-ins belong to one unpickler, because a file can set attributes of the classes that it names.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)

        class Kind(_Kind):
            pass

        class Array(_Array):
            pass

        self.known: dict[tuple[str, str], Any] = {("flax.core.frozen_dict", "FrozenDict"): dict}
        self.known |= {("numpy", "ndarray"): Array, ("numpy", "dtype"): Kind}
        for core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
            self.known[f"{core}.multiarray", "_reconstruct"] = lambda *_: Array()
            self.known[f"{core}.numeric", "_frombuffer"] = lambda data, kind, shape, order: Array().fill(
                shape, kind, order == "F", data
            )

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return the stand-in for a class or function.

        Raises:
            Refused: if there is none.
        """
        if (module_name, global_name) not in self.known:
            raise Refused(f"{module_name}.{global_name}")
        return self.known[module_name, global_name]


class _Kind:
    """A NumPy dtype of numbers, as pickles describe it."""

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[biuf][1248]", code):
            raise ValueError(f"arrays of {code!r} are not supported")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError(f"unknown byte order {state[1]!r}")
        self.order = state[1]


class _Array:
    """A NumPy array of numbers, as pickles describe it."""

    value: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_column, data = state
        self.fill(shape, kind, by_column, data)

    def fill(self, shape: Any, kind: Any, by_column: Any, data: Any) -> _Array:
        """Set the content and return the array."""
        if not isinstance(kind, _Kind) or not isinstance(data, bytes | bytearray):
            raise ValueError("an array must hold numbers")
        sides = tuple(int(n) for n in shape)
        flat = np.frombuffer(data, kind.order + kind.code)
        if any(n < 0 for n in sides) or math.prod(sides) != len(flat):
            raise ValueError(f"an array of {sides} holds {len(flat)} numbers")
        self.value = flat.reshape(sides, order="F" if by_column else "C")
        return self


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Tensor]:
    """Return the arrays of a tree by path.

    Raises:
        ValueError: if a leaf is not an array of numbers.
    """
    out: dict[str, Tensor] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            out |= flatten(value, f"{name}/")
        elif isinstance(value, _Array) and value.value is not None:
            native = value.value.astype(
                value.value.dtype.newbyteorder("="), order="C"
            )  # PyTorch reads only native order
            out[name] = torch.from_numpy(native)
        else:
            raise ValueError(f"{name} must be an array, got {value!r:.40}")
    return out
