"""A stand-in for devices that the tests do not have."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class NoFloat64(TorchDispatchMode):
    """Refuses to create float64 tensors on ``device``, like Apple's GPUs."""

    def __init__(self, device="cpu"):
        super().__init__()
        self.device = torch.device(device)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float64 and out.device.type == self.device.type:
            raise TypeError(f"{function} creates float64 on {out.device}")
        return out
