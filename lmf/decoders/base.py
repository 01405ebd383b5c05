"""What every decoder is: features to a latent once, the latent to colours at any coordinate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmf import grid, kernels
from lmf.errors import UserError

Skip = Literal["none", "bilinear"]


@dataclass(frozen=True)
class Latent:
    """All that a decoder keeps of a batch of images; subclasses add their maps, channels-last.

    Attributes:
        size: (h, w) of the latent grid.
        image: the network input (B, 3, h, w), or None if nothing needs it.
    """

    size: grid.Size
    image: Tensor | None


@dataclass(frozen=True)
class KernelInputs:
    """Arguments of the fused kernels; see `lmf.kernels.render_grid`."""

    modulation: Tensor
    code: Tensor
    extra: Tensor
    image: Tensor | None
    weights: kernels.Weights
    encoding: kernels.InputEncoding


class Decoder(nn.Module):
    """A continuous image representation.

    Subclasses define `latent` and `decode`. Nothing is remembered between the two calls.

    ``receptive_field``: a colour depends on the features and the image no farther from the LR pixel that holds its
    coordinate than this, along either axis, and on nothing else of where that lies; so a picture can be made of strips
    of it. None: no bound is known, and latents are always those of the whole picture.

    Args:
        in_channels: width C of the encoder's features.
        skip: ``"bilinear"`` adds the network input, sampled bilinearly, to every prediction.
        clip_scale: the largest scale of training: above it the cell stays that of this scale (cell clipping,
            LTE section 3.4). None: never clipped.
    """

    receptive_field: int | None = None

    def __init__(self, in_channels: int, skip: Skip = "none", clip_scale: float | None = None) -> None:
        super().__init__()
        if skip not in get_args(Skip):
            raise UserError(f"skip must be one of {get_args(Skip)}, got {skip!r}")
        self.in_channels = in_channels
        self.skip = skip
        self.clip_scale = clip_scale

    def cell(self, target: grid.Grid, size: grid.Size, batch: int, device: torch.device) -> Tensor:
        """The cell (``batch``, 2) to decode ``target`` with, clipped where the method does so.

        Args:
            target: the output pixels.
            size: (h, w) of the latent grid.
        """
        cell = torch.tensor([target.cell], device=device)
        if self.clip_scale is not None:
            cell = grid.clip_cell(cell, size, self.clip_scale)
        return cell.expand(batch, 2)

    def latent(self, feat: Tensor, image: Tensor, cell: Tensor) -> Latent:
        """All work that is done once per LR pixel.

        Args:
            feat: (B, C, h, w) from the encoder.
            image: (B, 3, h, w) network input in [-1, 1].
            cell: (B, 2) size of an output pixel in [-1, 1] units.
        """
        raise TypeError(f"{type(self).__name__} does not define latent(feat, image, cell)")

    def decode(self, latent: Any, coord: Tensor, cell: Tensor) -> Tensor:
        """Prediction (B, Q, 3) at ``coord`` (B, Q, 2) without the bilinear skip."""
        raise TypeError(f"{type(self).__name__} does not define decode(latent, coord, cell)")

    def query(self, latent: Latent, coord: Tensor, cell: Tensor) -> Tensor:
        """Colours (B, Q, 3) in network units [-1, 1], not clamped.

        Args:
            latent: from `latent`.
            coord: (B, Q, 2) as (y, x) in [-1, 1].
            cell: (B, 2) size of an output pixel in the same units.
        """
        rgb = self.decode(latent, coord, cell)
        if (image := self.skipped(latent)) is not None:
            rgb = rgb + grid.bilinear(image, coord)
        return rgb

    def render(self, latent: Latent, target: grid.Grid, cell: Tensor) -> Tensor:
        """`query` at every pixel of ``target``: (B, 3, rows, cols)."""
        coord = target.coord(cell.device).expand(len(cell), -1, 2)
        return self.query(latent, coord, cell).transpose(1, 2).unflatten(2, target.size)

    @property
    def constant_memory(self) -> bool:
        """Whether `render` needs no memory to speak of besides its result, however large that is."""
        return False

    def intensity(self, latent: Any) -> Tensor | None:
        """Modulation intensity (B, h, w) of ``latent``; None for decoders without latent modulation."""
        return None

    def kernel_inputs(self, latent: Any, cells: Tensor) -> KernelInputs | None:
        """What `lmf.kernels` renders ``latent`` from, or None if it cannot.

        Args:
            cells: (N, 2), of which each gives a row of ``extra``.
        """
        return None

    def skipped(self, latent: Latent) -> Tensor | None:
        """The picture (B, 3, h, w) to be sampled and added to what `decode` predicts, or None."""
        return latent.image if self.skip == "bilinear" else None


class Linear(nn.Linear):
    """`nn.Linear`, on a CPU as the 1 x 1 convolution that it is.

    Torch runs convolutions by oneDNN but matrix products by MKL, which on processors of other makers than its own
    reaches half the speed. Narrow outputs do not gain.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype == torch.float64 or self.out_features < 16 or not x.numel():
            return super().forward(x)
        maps = x.reshape(1, 1, -1, self.in_features).permute(0, 3, 1, 2)  # (1, in, 1, N), channels last
        maps = F.conv2d(maps, self.weight[:, :, None, None], self.bias)
        return maps.permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)


class MLP(nn.Module):
    """Linear + ReLU for each hidden width, then Linear, over the last dimension."""

    def __init__(self, in_dim: int, hidden: Sequence[int], out_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [Linear(in_dim, width), nn.ReLU(inplace=True)]  # its input is nobody else's
            in_dim = width
        self.layers = nn.Sequential(*layers, Linear(in_dim, out_dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
