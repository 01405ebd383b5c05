"""Lightning's names of precisions, for tasks that run without its trainer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch

from lmf.errors import UserError

_MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def autocast(precision: str | int, device: torch.device | str) -> Callable[[], AbstractContextManager]:
    """Makes the context in which a model runs with ``precision`` on ``device``.

    Args:
        precision: ``32-true``, or ``bf16-mixed`` or ``16-mixed``: matrix products and convolutions in 16 bits,
            everything else, fused rendering included, in float32.

    Raises:
        UserError: another precision.
    """
    if str(precision) in ("32", "32-true"):
        return nullcontext
    if str(precision) not in _MIXED:
        raise UserError(f"precision must be one of 32-true, {', '.join(_MIXED)}, got {precision}")
    return partial(torch.autocast, torch.device(device).type, dtype=_MIXED[str(precision)])
