"""Reads ``torch.save`` files by safe unpickling and identifies other kinds of files."""

from __future__ import annotations

import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmf.errors import UserError, one_line

# Scores and step counts are often stored as NumPy scalars and arrays. Rebuilding them executes no code from the file.
_MAKERS: list[Any] = [np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]]
_NUMPY: list[Any] = [
    np.ndarray,
    np.dtype,
    *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"},
    *(
        (make, f"numpy.{core}.multiarray.{make.__name__}")  # NumPy 1 and 2
        for core in ("core", "_core")
        for make in _MAKERS
    ),
]

_SIGNATURES = {
    b"version https://git-lfs": "a Git LFS pointer; `git lfs pull` fetches the file",
    b"\x89HDF\r\n": "an HDF5 file, perhaps from Keras",
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a NumPy array",
}


class CheckpointError(UserError):
    """Raised for a file from which no model can be read. The message says what was found and what is expected."""


def unpickle(path: Path) -> dict[str, Any]:
    """Load the dict in a ``torch.save`` file to the CPU by safe unpickling.

    Raises:
        CheckpointError: if the file is unreadable or unsafe, or does not hold a dict.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_NUMPY):
            warnings.simplefilter("ignore")
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({one_line(error)})") from error
    except Exception as error:  # a damaged pickle can raise any type
        if (kind := kind_of(path)) is not None:
            raise CheckpointError(f"{path}: damaged or not a checkpoint: {kind}") from error
        if isinstance(error, pickle.UnpicklingError):
            refused = re.search(r"GLOBAL (\S+)", str(error))
            what = f"it names {refused[1]}" if refused else one_line(error, limit=100)
            raise CheckpointError(
                f"{path}: not a checkpoint that safe unpickling accepts ({what}); save only weights and plain values"
            ) from error
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({one_line(error)})") from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path}: holds a {type(checkpoint).__name__}, not a checkpoint")
    return checkpoint


def kind_of(path: Path) -> str | None:
    """Describe the file at ``path``; return None if it may be safetensors or from ``torch.save``."""
    with path.open("rb") as file:
        start = file.read(1024)
    if not start:
        return "an empty file"
    for signature, kind in _SIGNATURES.items():
        if start.startswith(signature):
            return kind
    if re.match(rb"\s*<(!doctype|html|\?xml)", start, re.IGNORECASE):
        return "a web page; the download needs a confirmation or a login"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("/constants.pkl") and "/code/" in "".join(names) for name in names):
            return "a TorchScript archive; save the model's state_dict() instead"
        return None if any(name.endswith("data.pkl") for name in names) else "a zip archive"
    if tarfile.is_tarfile(path):
        return "a tar archive, perhaps of PyTorch before 0.2; load and save it again with a newer one"
    if b"onnx" in start or (start[:1] == b"\x08" and b"pytorch" in start):
        return "an ONNX file"
    text = start.decode(errors="replace")
    if "\ufffd" not in text[:-3] and all(c.isprintable() or c.isspace() for c in text[:-3]):
        return "a text file"
    return None


def is_safetensors(path: Path) -> bool:
    """Return whether ``path`` begins with the length of a JSON header and a brace, as safetensors files do."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def check_finite(state: Mapping[str, Tensor], name: object) -> None:
    """Check that all weights are finite.

    Args:
        state: the weights.
        name: name of the file, for the message.

    Raises:
        CheckpointError: if some weights are NaN or infinite, or are not tensors.
    """
    other = next((key for key, value in state.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        raise CheckpointError(f"{name}: {other} must be a tensor, got a {type(state[other]).__name__}")
    broken = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{name}: NaN or infinite weights in {len(broken)} of {len(state)} tensors, {broken[0]} first; "
            "the training diverged; use an earlier checkpoint"
        )
