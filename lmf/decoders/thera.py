"""Thera: Aliasing-Free Arbitrary-Scale Super-Resolution with Neural Heat Fields (Becker et al., 2023).

A hypernetwork computes a separate field for each LR pixel, a sum of sine waves that is evaluated inside the pixel only.
All fields share their frequencies. Diffusion over a time that depends on the scale damps each wave by its frequency, so
that a picture contains no detail finer than its pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lmf import grid
from lmf.decoders.base import Decoder, Latent, Linear
from lmf.decoders.convnext import ConvNeXt
from lmf.encoders.swinir import Block, Group, SwinIR
from lmf.errors import UserError
from lmf.kernels import fields

TailName = Literal["air", "plus", "pro"]

MEAN = (0.4488, 0.4371, 0.4040)  # of the colours of DIV2K in [0, 1]
VARIANCE = 0.25 + 1e-5  # by which the published network standardises pictures in [0, 1]
DIFFUSIVITY = math.sqrt(math.log(4)) / (2 * math.pi**2)  # initial value


@dataclass(frozen=True)
class FieldLatent(Latent):
    """Fields of each LR pixel.

    Attributes:
        waves: (B, h, w, 4 N), amplitudes of red, green and blue (N each), then phases (N).
    """

    waves: Tensor


class Thera(Decoder):
    """Thera decoder.

    It standardises the encoder's input (`encoder_input`), and adds its fields to the colours of the nearest LR pixels.
    The scale enters through the cell alone. With different factors for height and width, the time of diffusion follows
    from their geometric mean.

    Args:
        in_channels: width C of the encoder's features.
        tail: network between encoder and hypernetwork: ``"air"`` has none, ``"plus"`` ConvNeXt blocks, ``"pro"`` the
            body of SwinIR.
        waves: number N of frequencies; None for 32 with ``"air"``, else 512.
        variation: weight of the mean absolute derivative of the fields in the training loss, see `penalty`.

    Raises:
        UserError: if an option is out of range.
    """

    def __init__(
        self, in_channels: int = 64, tail: TailName = "air", waves: int | None = None, variation: float = 2e-4
    ) -> None:
        super().__init__(in_channels)
        if tail not in get_args(TailName):
            raise UserError(f"tail must be one of {get_args(TailName)}, got {tail!r}")
        waves = {"air": 32}.get(tail, 512) if waves is None else waves
        if waves < 1 or variation < 0:
            raise UserError(f"waves must be at least 1 and variation at least 0, got {waves} and {variation}")
        self.tail, self.variation = tail, variation
        if tail == "air":
            self.refine: nn.Module = nn.Identity()
            width, self.receptive_field = in_channels, 0
        elif tail == "plus":
            self.refine = ConvNeXt((in_channels, 96, 128), (6, 7, 3))
            width, self.receptive_field = 128, self.refine.receptive_field
        else:
            self.refine = SwinTail(in_channels)
            width, self.receptive_field, self.multiple = 64, self.refine.receptive_field, self.refine.multiple
            self.graph_obstacle = "its attention pads features to whole windows, which fixes the size of a picture"
        self.hypernet = Linear(width, 4 * waves)
        angle, radius = 2 * math.pi * torch.rand(waves), 16 * math.pi * torch.rand(waves).sqrt()
        self.frequencies = nn.Parameter(radius * torch.stack([angle.sin(), angle.cos()]))  # (2, N)
        self.diffusivity = nn.Parameter(torch.tensor(DIFFUSIVITY))

    def encoder_input(self, image: Tensor) -> Tensor:
        return (image / 2 + (0.5 - channels(image))) / math.sqrt(VARIANCE)

    def latent(self, feat: Tensor, image: Tensor, cell: Tensor) -> FieldLatent:
        h, w = feat.shape[-2:]
        return FieldLatent((h, w), image, self.hypernet(self.refine(feat).permute(0, 2, 3, 1)))

    def decode(self, latent: FieldLatent, coord: Tensor, cell: Tensor) -> Tensor:
        index, offset = grid.holder(coord, latent.size)
        return fields.render(*self.fields(latent, cell), index, offset)

    def render(self, latent: Any, target: grid.Grid, cell: Tensor) -> Tensor:
        positions = target.holders(latent.size, cell.device, cell.dtype)
        return fields.render_grid(*self.fields(latent, cell), *positions)

    @property
    def constant_memory(self) -> bool:
        return True

    def fields(self, latent: FieldLatent, cell: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the first arguments of `lmf.kernels.fields.render` for an output of ``cell`` (B, 2)."""
        assert latent.image is not None
        time = grid.relative_cell(cell, latent.size).prod(dim=-1, keepdim=True) / 4  # (B, 1), scale^-2
        decay = (-self.frequencies.square().sum(dim=0) * self.diffusivity * time).exp()  # (B, N)
        base = latent.image + 2 * channels(latent.image)
        return latent.waves, self.frequencies, decay, base

    def jacobian(self, latent: FieldLatent, coord: Tensor) -> Tensor:
        """Return the derivative of the fields before diffusion with respect to the position in an LR pixel.

        Args:
            latent: result of `latent`.
            coord: (B, Q, 2) as (y, x) in [-1, 1].

        Returns:
            (B, Q, 3, 2), colours in network units per LR pixel.
        """
        index, offset = grid.holder(coord, latent.size)
        amplitudes, phase = grid.take(latent.waves, index).unflatten(-1, (4, -1)).split((3, 1), dim=-2)
        slope = (offset @ self.frequencies + phase.squeeze(-2)).cos()  # (B, Q, N)
        out: Tensor = amplitudes @ (slope[..., None] * self.frequencies.T)  # (B, Q, 3, N) x (B, Q, N, 2)
        return out

    def penalty(self, latent: FieldLatent, coord: Tensor) -> Tensor:
        """Return ``variation`` times the mean absolute derivative of the fields, which keeps them smooth."""
        return self.variation * self.jacobian(latent, coord).abs().mean()


class SwinTail(SwinIR):
    """The body of SwinIR on features instead of pictures, padded by reflection inside.

    Args:
        in_channels: width C of the features.
        out_channels: width of the result.
        embed, depths, heads: see `SwinIR`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 64,
        embed: int = 180,
        depths: Sequence[int] = (7, 6),
        heads: Sequence[int] = (6, 6),
    ) -> None:
        super().__init__(out_channels, embed=embed, depths=depths, heads=heads)
        self.conv_first = nn.Conv2d(in_channels, embed, 3, padding=1)
        for group in self.groups:
            assert isinstance(group, Group)
            for block in group.blocks:
                assert isinstance(block, Block)
                block.mlp[1] = nn.GELU(approximate="tanh")

    def forward(self, image: Tensor) -> Tensor:
        """Map features (B, C, h, w) to features of the same size."""
        (h, w), step = image.shape[-2:], self.window
        y, x = (grid.reflected(n, (n + step - 1) // step * step, image.device) for n in (h, w))
        return super().forward(image.index_select(2, y).index_select(3, x))[..., :h, :w]


def channels(like: Tensor) -> Tensor:
    """Return `MEAN` as (3, 1, 1) of the type and device of ``like``."""
    return like.new_tensor(MEAN)[:, None, None]
