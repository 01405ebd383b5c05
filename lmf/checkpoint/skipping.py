"""Skips the random initialisation of weights that a file replaces."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

# Not the methods of tensors: whoever calls these may draw until the numbers suit, as nn.init.trunc_normal_ does.
_RANDOM = (nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_)


class WithoutRandomWeights(TorchFunctionMode):
    """Leaves tensors unchanged that layers would fill with random numbers, because weights from a file replace them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _RANDOM:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
