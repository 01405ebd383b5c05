"""A model as functions of tensors, which `lmf.export.tracing` turns into graphs.

Pictures are in [0, 1]. Sizes and scales are tensors, so that one graph serves all of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from lmf import grid
from lmf.decoders.base import Latent
from lmf.io.colour import from_network, to_network
from lmf.model import SRModel


class LatentGraph(nn.Module):
    """Everything that is computed once per picture and scale: features and latent.

    Args:
        model: the model.
    """

    def __init__(self, model: SRModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of the latent, then the cell (2,).

        Args:
            image: (B, 3, h, w) in [0, 1].
            scale: float64 (2,), output rows and columns per row and column of ``image``.
        """
        latent, cell = self.latent(image, scale)
        return (*maps(self.model, latent).values(), cell)

    def latent(self, image: Tensor, scale: Tensor) -> tuple[Latent, Tensor]:
        """Compute the latent and the cell, float32 (2,); see `forward`."""
        decoder = self.model.decoder
        padded = pad(to_network(image), self.model.encoder.multiple)
        b, _, h, w = padded.shape
        cell = (2 / cells(scale, (h, w))).to(padded.dtype)[None]  # (1, 2)
        if decoder.clip_scale is not None:
            cell = grid.clip_cell(cell, (h, w), decoder.clip_scale)
        return decoder.latent(self.model.encoder(decoder.encoder_input(padded)), padded, cell.expand(b, 2)), cell[0]


class RenderGraph(nn.Module):
    """Renders a rectangle of output pixels from a latent.

    Args:
        model: the model.
        latent: any latent of the model; it gives the class and the names of the maps.
    """

    def __init__(self, model: SRModel, latent: Latent) -> None:
        super().__init__()
        self.decoder = model.decoder
        self.names = [*maps(model, latent)]
        self.template = replace(latent, image=None)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Render (B, 3, rows, cols) in [0, 1].

        Args:
            inputs: the maps of the latent, then the other arguments of `render`.
        """
        *values, cell, scale, origin, size = inputs
        named = dict(zip(self.names, values, strict=True))
        h, w = next(v.shape[2:] if name == "skip" else v.shape[1:3] for name, v in named.items())
        image = named.pop("skip", None)
        return self.render(replace(self.template, size=(h, w), image=image, **named), cell, scale, origin, size)

    def render(self, latent: Latent, cell: Tensor, scale: Tensor, origin: Tensor, size: Tensor) -> Tensor:
        """Render a rectangle.

        Args:
            latent: the latent.
            cell: float32 (2,), size of an output pixel in [-1, 1] units.
            scale: float64 (2,), see `LatentGraph`.
            origin: int64 (2,), first row and column.
            size: int64 (2,), number of rows and columns.
        """
        axes = []
        for i, n in enumerate(cells(scale, latent.size).unbind()):
            start: Any = origin[i].item()
            count: Any = size[i].item()
            torch._check(count >= 1)
            axes.append(grid.axis(cast(Any, n), start, start + count))  # n rounds like Python's float64
        coord = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)  # (rows * cols, 2)
        b = next(iter(latent.tensors().values())).shape[0]
        rgb = self.decoder.query(latent, coord.expand(b, -1, 2), cell.expand(b, 2))
        return from_network(rgb.transpose(1, 2).reshape(b, 3, axes[0].shape[0], axes[1].shape[0]))


class WholeGraph(nn.Module):
    """Enlarges a picture to a size, like `SRModel.upscale`.

    Args:
        first: computes the latent.
        second: renders it.
    """

    def __init__(self, first: LatentGraph, second: RenderGraph) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, image: Tensor, size: Tensor) -> Tensor:
        """Enlarge ``image`` (B, 3, h, w) in [0, 1] to ``size``, int64 (2,): (B, 3, H, W) in [0, 1]."""
        scale = size.double() / size.new_tensor(image.shape[2:])
        latent, cell = self.first.latent(image, scale)
        return self.second.render(latent, cell, scale, torch.zeros_like(size), size)


def maps(model: SRModel, latent: Latent) -> dict[str, Tensor]:
    """Return the tensors of ``latent`` that rendering reads, by name.

    The image is called ``skip``. All others are channels-last.
    """
    found = latent.tensors()
    image = found.pop("image", None)
    if image is not None and model.decoder.skipped(latent) is not None:
        found["skip"] = image
    return found


def cells(scale: Tensor, size: grid.Size) -> Tensor:
    """Return the rows and columns, float64 (2,), of the output over [-1, 1]; see `lmf.grid.axis`."""
    return scale * scale.new_tensor(size)


def pad(image: Tensor, multiple: int) -> Tensor:
    """Do what `SRModel.pad` does, without decisions that depend on the size."""
    if multiple == 1:
        return image
    h, w = image.shape[2:]
    y, x = (grid.reflected(n, (n + multiple - 1) // multiple * multiple, image.device) for n in (h, w))
    return image.index_select(2, y).index_select(3, x)
