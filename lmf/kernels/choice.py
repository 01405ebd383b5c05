"""The choice of what computes an encoder's convolutions on the CPU, by name or by measuring."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from lmf.errors import UserError
from lmf.io.files import cache_folder, write_text
from lmf.kernels import build, convolution_ops

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
    """Return the fastest of ``names`` on this machine, by the times of `measured`."""
    times = measured(threads)
    return min(names, key=lambda name: times[name])


@functools.cache
def measured(threads: int) -> dict[str, float]:
    """Return the seconds of a typical convolution by each of `ENCODERS`.

    They are measured once for a machine, a version of PyTorch and a number of threads, which takes a fraction of a
    second, and kept in the folder of compiled kernels.
    """
    key = build.digest(f"{build.processor()} {torch.__version__} {threads}".encode())
    path = cache_folder() / f"encoders-{key}.json"
    try:
        kept = json.loads(path.read_text())
        return {name: float(kept[name]) for name in ENCODERS}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    times = measure()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(times) + "\n")
    except OSError:  # measured again in the next process
        pass
    return times


@torch.no_grad()
def measure(runs: int = 12) -> dict[str, float]:
    """Time a convolution of 64 channels on 96 x 96 pixels by each of `ENCODERS`, and return the least seconds."""
    x = torch.ones(1, 64, 96, 96).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.zeros(64, 64, 3, 3), torch.zeros(64)
    half = [t.bfloat16() for t in (x, weight, bias)]
    ways: dict[str, Callable[[], Tensor]] = {
        "winograd": lambda: convolution_ops.conv3x3(x, weight, bias, True, None, 1.0),
        "torch": lambda: F.conv2d(x, weight, bias, padding=1).relu_(),
        "bf16": lambda: F.conv2d(half[0], half[1], half[2], padding=1).relu_(),
    }
    times = dict.fromkeys(ENCODERS, float("inf"))
    for _ in range(runs):
        for name, run in ways.items():  # in turns, so that other load affects all alike
            start = time.perf_counter()
            run()
            times[name] = min(times[name], time.perf_counter() - start)
    return times
