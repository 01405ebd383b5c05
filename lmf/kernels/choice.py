"""The choice of what computes an encoder's convolutions on the CPU, by name or by measuring."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from lmf.errors import UserError
from lmf.kernels import build, convolution_ops, measurements

ENCODERS = ("winograd", "torch", "bf16")


def checked(*names: str) -> tuple[str, ...]:
    """Return ``names`` if they are some of `ENCODERS`.

    Raises:
        UserError: if not.
    """
    if not names or any(name not in ENCODERS for name in names):
        raise UserError(f"encoder backends must be some of {', '.join(ENCODERS)}, got {', '.join(names) or 'none'}")
    return names


_allowed = checked(*os.environ.get("LMF_ENCODER", ENCODERS[0]).split(","))


@contextmanager
def encoder(*names: str) -> Iterator[None]:
    """Use one implementation, or the fastest of several, for all encoders on the CPU within the block.

    The choice holds for the whole process. Do not enter such blocks in several threads at once.

    Args:
        names: ``"winograd"`` computes 3x3 convolutions of float32 maps by `lmf.kernels.conv3x3`, and is the default.
            ``"torch"`` leaves all to PyTorch. ``"bf16"`` computes whole encoders in bfloat16 by PyTorch where no
            gradients are needed, which is less exact and fast only on processors with AMX or AVX512-BF16. Of several
            names the fastest is used, see `fastest`. The environment variable ``LMF_ENCODER`` sets them for a whole
            run, separated by commas.

    Raises:
        UserError: if a name is unknown.
    """
    global _allowed
    before, _allowed = _allowed, checked(*names)
    try:
        yield
    finally:
        _allowed = before


def allowed() -> tuple[str, ...]:
    """Return the names that were chosen by `encoder`, for the same choice in another process."""
    return _allowed


def current() -> str:
    """Return the implementation in use, one of `ENCODERS`."""
    return _allowed[0] if len(_allowed) == 1 else fastest(_allowed, torch.get_num_threads())


@contextmanager
def reduced(image: Tensor) -> Iterator[bool]:
    """Let an encoder that reads ``image`` compute in bfloat16 within the block, if that was chosen and applies.

    Yields:
        Whether it does.
    """
    exact = image.dtype == torch.float32 and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    half = exact and image.device.type == "cpu" and current() == "bf16"
    with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
        yield half


@functools.cache
def fastest(names: tuple[str, ...], threads: int) -> str:
    """Return the fastest of ``names`` on this machine with so many threads; the first if it is too busy to measure.

    Times are measured once for a machine and a version of PyTorch, in about a second, and kept beside the compiled
    kernels.
    """
    key = f"{build.processor()} {torch.__version__} {threads} threads"
    times = measurements.kept("encoders", key, ENCODERS, measure)
    return names[0] if times is None else min(names, key=times.__getitem__)


@torch.no_grad()
def measure() -> dict[str, float] | None:
    """Time a convolution of 64 channels on 96 x 96 pixels by each of `ENCODERS`, in seconds; None if busy."""
    x = torch.ones(1, 64, 96, 96).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.zeros(64, 64, 3, 3), torch.zeros(64)
    half = [t.bfloat16() for t in (x, weight, bias)]
    times, steady = measurements.turns(
        [
            lambda: convolution_ops.conv3x3(x, weight, bias, True, None, 1.0),
            lambda: F.conv2d(x, weight, bias, padding=1).relu_(),
            lambda: F.conv2d(half[0], half[1], half[2], padding=1).relu_(),
        ]
    )
    return dict(zip(ENCODERS, times, strict=True)) if steady else None
