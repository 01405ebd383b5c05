"""Autocast contexts by Lightning's precision names, for tasks that run without its trainer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

from lmf.errors import UserError

_MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def autocast(precision: str | int, device: torch.device | str) -> Callable[[], AbstractContextManager[Any]]:
    """Return a function that creates the autocast context for ``precision`` on ``device``.

    Args:
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed``. The mixed ones compute matrix products and convolutions
            in 16 bits and everything else, including fused rendering, in float32.
        device: the device that the model runs on.

    Raises:
        UserError: if ``precision`` is not one of these.
    """
    if str(precision) in ("32", "32-true"):
        return nullcontext
    if str(precision) not in _MIXED:
        raise UserError(f"precision must be one of 32-true, {', '.join(_MIXED)}, got {precision}")
    return partial(torch.autocast, torch.device(device).type, dtype=_MIXED[str(precision)])
