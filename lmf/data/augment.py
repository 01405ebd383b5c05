"""Augmentation of whole batches on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from kornia.geometry.transform import hflip, vflip
from torch import Tensor, nn

from lmf.data.settings import DataError


class BatchAugment(nn.Module):
    """Converts a batch of `TrainSamples` to a training batch.

    Colours are converted to float32 in [0, 1], each sample is flipped and transposed according to its ``flip``, and
    pixel numbers are converted to coordinates that equal those of `lmf.grid.axis` bit for bit.

    Args:
        photometric: `kornia.augmentation` modules that change colours pixel by pixel (channel shuffle, jitter,
            gamma, ...). LR patch and targets of a sample are processed as one picture, so both change alike.
        seed: seed of the photometric modules. Their effect depends only on (seed, batch number, rank).

    Raises:
        DataError: if a module does more than change colours.
    """

    def __init__(self, photometric: Sequence[nn.Module] = (), seed: int = 0) -> None:
        super().__init__()
        for module in photometric:
            if not isinstance(module, IntensityAugmentationBase2D):
                raise DataError(
                    f"photometric augmentations must be kornia intensity augmentations, which only change colours, "
                    f"got {type(module).__name__}; flips and transposition are built in"
                )
        self.photometric = nn.ModuleList(photometric)
        self.seed = seed

    def forward(self, batch: dict[str, Any], rank: int = 0) -> dict[str, Any]:
        """Convert and augment a batch.

        Args:
            batch: a batch of `TrainSamples.__getitems__` with its ``number``, on any device.
            rank: rank of this process.

        Returns:
            Dictionary of lr (B, 3, p, p) and target (B, Q, 3), float32 in [0, 1]; coord (B, Q, 2) and cell (B, 2),
            float32 in [-1, 1] units; number, an int; and drawn, bool (B,), if ``batch`` has it.
        """
        lr, target = batch["lr"].float() / 255, batch["target"].float() / 255
        flip, side = batch["flip"], batch["crop"][:, None]
        y, x = batch["pixel"] // side, batch["pixel"] % side  # (B, Q)
        vertical, horizontal, transpose = flip.unbind(dim=1)

        lr = torch.where(vertical[:, None, None, None], vflip(lr), lr)
        lr = torch.where(horizontal[:, None, None, None], hflip(lr), lr)
        lr = torch.where(transpose[:, None, None, None], lr.mT, lr)
        y = torch.where(vertical[:, None], side - 1 - y, y)
        x = torch.where(horizontal[:, None], side - 1 - x, x)
        y, x = torch.where(transpose[:, None], x, y), torch.where(transpose[:, None], y, x)

        # Each of these float32 divisions rounds once, as `lmf.grid.axis` does; not all devices have float64.
        step, first = 2 / side.float(), (1 - side).float() / side.float()  # (B, 1)
        coord = torch.stack([y, x], dim=-1) * step[..., None] + first[..., None]
        if len(self.photometric):
            lr, target = self._recolour(lr, target, batch["number"], rank)
        return {
            "lr": lr.contiguous(),
            "coord": coord,
            "cell": step.expand(-1, 2),
            "target": target,
            **{key: batch[key] for key in ("number", "drawn") if key in batch},
        }

    def _recolour(self, lr: Tensor, target: Tensor, number: int, rank: int) -> tuple[Tensor, Tensor]:
        """Apply the photometric modules to ``lr`` (B, 3, p, p) and ``target`` (B, Q, 3)."""
        pixels = torch.cat([lr.flatten(2), target.mT], dim=2)[:, :, None]  # (B, 3, 1, p p + Q)
        with torch.random.fork_rng(devices=[]):  # kornia draws its parameters on the CPU
            torch.manual_seed(hash((self.seed, number, rank)))
            for module in self.photometric:
                pixels = module(pixels)
        pixels = pixels[:, :, 0].clamp(0, 1)
        split = lr.shape[-2] * lr.shape[-1]
        return pixels[..., :split].reshape(lr.shape), pixels[..., split:].mT.contiguous()
