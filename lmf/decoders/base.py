"""The base class of decoders, which turn features into a latent once and the latent into colours anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmf import grid, kernels
from lmf.errors import UserError

Skip = Literal["none", "bilinear"]


@dataclass(frozen=True)
class Latent:
    """The state of a decoder for a batch of images; subclasses add their maps, channels-last.

    Attributes:
        size: (h, w) of the latent grid.
        image: the network input (B, 3, h, w) in [-1, 1], or None if it is not needed.
    """

    size: grid.Size
    image: Tensor | None

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by the name of their attribute."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def single(self, i: int) -> Self:
        """Return the latent of image ``i`` of the batch."""
        slices: dict[str, Any] = {name: value[i : i + 1] for name, value in self.tensors().items()}
        return replace(self, **slices)


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
    """Base class of decoders, which represent an image continuously.

    Subclasses define `latent` and `decode`. A decoder keeps no state between the two calls.

    Args:
        in_channels: width C of the encoder's features.
        skip: ``"bilinear"`` adds the network input, sampled bilinearly, to every prediction.
        clip_scale: largest scale seen in training. Above it the cell of this scale is used (cell clipping, LTE,
            section 3.4). None disables clipping.

    Attributes:
        receptive_field: largest distance in LR pixels, along either axis, between the LR pixel that holds a coordinate
            and the features and image pixels that its colour depends on. A colour must not depend on the absolute
            position either, so that a picture can be computed in strips. None if no bound is known; latents then always
            cover the whole picture.
        multiple: strips of LR pixels must begin at multiples of it, and end there or with the picture.
        pointwise: whether a colour is independent of the other coordinates of a call. If not, a picture is defined by
            one call for all of its pixels; `summarise` makes it possible to render it in parts.
        graph_obstacle: why `lmf.export` cannot write the decoder as a graph for all sizes; None if it can.

    Raises:
        UserError: if ``skip`` is unknown.
    """

    receptive_field: int | None = None
    multiple: int = 1
    pointwise: bool = True
    graph_obstacle: str | None = None

    def __init__(self, in_channels: int, skip: Skip = "none", clip_scale: float | None = None) -> None:
        super().__init__()
        if skip not in get_args(Skip):
            raise UserError(f"skip must be one of {get_args(Skip)}, got {skip!r}")
        self.in_channels = in_channels
        self.skip = skip
        self.clip_scale = clip_scale

    def cell(
        self,
        target: grid.Grid,
        size: grid.Size,
        batch: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Return the cell (``batch``, 2) for decoding ``target``, clipped according to ``clip_scale``.

        Args:
            target: the output pixels.
            size: (h, w) of the latent grid.
            batch: number of images.
            device: device of the result.
            dtype: type of the result, float32 or float64. Rendering computes coordinates in it.
        """
        cell = torch.tensor([target.cell], device=device, dtype=dtype)
        if self.clip_scale is not None:
            cell = grid.clip_cell(cell, size, self.clip_scale)
        return cell.expand(batch, 2)

    def encoder_input(self, image: Tensor) -> Tensor:
        """Convert ``image`` (B, 3, h, w) in [-1, 1] to what the encoder receives; the same by default.

        A decoder whose published network standardises its input does so here, so that all decoders share encoders.
        """
        return image

    def latent(self, feat: Tensor, image: Tensor, cell: Tensor) -> Latent:
        """Do the work that is done once per LR pixel.

        Args:
            feat: (B, C, h, w) from the encoder.
            image: (B, 3, h, w) network input in [-1, 1].
            cell: (B, 2) size of an output pixel in [-1, 1] units.
        """
        raise TypeError(f"{type(self).__name__} does not define latent(feat, image, cell)")

    def decode(self, latent: Any, coord: Tensor, cell: Tensor) -> Tensor:
        """Predict colours (B, Q, 3) at ``coord`` (B, Q, 2) without the bilinear skip; see `query`."""
        raise TypeError(f"{type(self).__name__} does not define decode(latent, coord, cell)")

    def summarise(self, latent: Any, target: grid.Grid, cell: Tensor) -> Any:
        """Add to ``latent`` what all pixels of ``target`` contribute to each colour.

        Colours then are those of a call for all of these pixels, whichever are asked. A pointwise decoder returns
        ``latent``, and so does every decoder if this has been done before.

        Args:
            latent: result of `latent`.
            target: all pixels of the picture.
            cell: (B, 2) size of an output pixel in [-1, 1] units.
        """
        return latent

    def query(self, latent: Latent, coord: Tensor, cell: Tensor) -> Tensor:
        """Predict colours at scattered coordinates.

        Args:
            latent: result of `latent`.
            coord: (B, Q, 2) as (y, x) in [-1, 1].
            cell: (B, 2) size of an output pixel in the same units.

        Returns:
            (B, Q, 3) in network units [-1, 1], not clamped.
        """
        rgb = self.decode(latent, coord, cell)
        if (image := self.skipped(latent)) is not None:
            rgb = rgb + grid.bilinear(image, coord)
        return rgb

    def render(self, latent: Latent, target: grid.Grid, cell: Tensor) -> Tensor:
        """Query every pixel of ``target``: (B, 3, rows, cols)."""
        coord = target.coord(cell.device, cell.dtype).expand(len(cell), -1, 2)
        out: Tensor = self.query(latent, coord, cell).transpose(1, 2).unflatten(2, target.size)
        return out

    @property
    def constant_memory(self) -> bool:
        """Whether the memory of `render`, apart from its result, does not grow with the size of the result."""
        return False

    def intensity(self, latent: Any) -> Tensor | None:
        """Return the modulation intensity (B, h, w) of ``latent``, or None for decoders without modulation."""
        return None

    def kernel_inputs(self, latent: Any, cells: Tensor) -> KernelInputs | None:
        """Return the arguments for rendering ``latent`` with `lmf.kernels`, or None if the kernels do not support it.

        Args:
            latent: result of `latent`.
            cells: (N, 2) sizes of output pixels in [-1, 1] units; each yields a row of ``extra``.
        """
        return None

    def penalty(self, latent: Any, coord: Tensor) -> Tensor | None:
        """Return what training adds to the loss of the colours at ``coord`` (B, Q, 2), or None for nothing.

        Args:
            latent: result of `latent`.
            coord: (B, Q, 2) as (y, x) in [-1, 1].
        """
        return None

    def skipped(self, latent: Latent) -> Tensor | None:
        """Return the image (B, 3, h, w) whose bilinear samples are added to the result of `decode`, or None."""
        return latent.image if self.skip == "bilinear" else None


class Linear(nn.Linear):
    """`nn.Linear`, computed as a 1 x 1 convolution on CPUs.

    Torch uses oneDNN for convolutions and MKL for matrix products. On CPUs that are not Intel's, MKL reaches only half
    the speed. Layers with fewer than 16 outputs gain nothing.
    """

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``x @ weight.T + bias`` as `Linear` does.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,), or None.
    """
    if torch.compiler.is_exporting() or x.device.type != "cpu" or x.dtype == torch.float64:
        return F.linear(x, weight, bias)
    if len(weight) < 16 or not x.numel():
        return F.linear(x, weight, bias)
    maps = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)  # (1, in, 1, N), channels last
    maps = F.conv2d(maps, weight[:, :, None, None], bias)
    return maps.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


class MLP(nn.Module):
    """Linear + ReLU for each hidden width, then Linear, over the last dimension.

    Args:
        in_dim: width of the input.
        hidden: widths of the hidden layers.
        out_dim: width of the output.
    """

    def __init__(self, in_dim: int, hidden: Sequence[int], out_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [Linear(in_dim, width), nn.ReLU(inplace=True)]  # in place: nothing else reads its input
            in_dim = width
        self.layers = nn.Sequential(*layers, Linear(in_dim, out_dim))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out
