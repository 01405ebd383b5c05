"""Waiting for devices that work asynchronously."""

from __future__ import annotations

import torch


def synchronize(device: torch.device) -> None:
    """Returns when ``device`` has finished all work given to it; at once for a CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
