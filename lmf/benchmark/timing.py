"""Synchronisation with asynchronous devices."""

from __future__ import annotations

import torch


def synchronize(device: torch.device) -> None:
    """Wait until ``device`` has finished all its work; a CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
