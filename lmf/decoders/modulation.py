"""Latent Modulated Functions (He & Jin, CVPR 2024): what all LMF decoders share.

A hypernetwork decodes each latent *once* into modulations of a tiny MLP (section 3.2); that MLP renders
every output pixel (section 3.3). A method says what goes into the hypernetwork (`latent`) and what the
renderer reads besides modulations; everything else is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmf import grid, kernels
from lmf.decoders.base import Decoder, KernelInputs, Latent, Skip


@dataclass(frozen=True)
class ModulatedLatent(Latent):
    """Attributes:
    modulation: (B, h, w, 2 L D), all scales (L x D) then all shifts (L x D).
    code: (B, h, w, K), what the renderer reads of a latent besides its modulations.
    """

    modulation: Tensor
    code: Tensor

    def intensity(self) -> Tensor:
        """Modulation intensity (B, h, w): mean absolute shift; how much detail a latent carries (section 3.4)."""
        return self.modulation[..., self.modulation.shape[-1] // 2 :].abs().mean(dim=-1)


class ModulatedMLP(nn.Module):
    """The renderer: ``depth`` hidden layers of ``width``, each modulated, then an unmodulated output layer.

    ``x = relu((W x + b) * (1 + scale_l) + shift_l)`` (eq. 6)

    ``fusable``: the kernels compute the same from `weights`. A subclass with a `forward` of another kind is not, unless
    it says so.
    """

    fusable: bool = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "forward" in vars(cls) and "fusable" not in vars(cls):
            cls.fusable = False

    def __init__(self, in_dim: int, width: int, depth: int, out_dim: int = 3) -> None:
        super().__init__()
        self.width, self.depth = width, depth
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(in_dim, width), nn.ReLU()]
            in_dim = width
        self.layers = nn.Sequential(*layers, nn.Linear(in_dim, out_dim))

    @property
    def modulations(self) -> int:
        """How many numbers modulate it: 2 L D."""
        return 2 * self.width * self.depth

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """``x`` (..., in_dim) and ``modulation`` (..., 2 L D) to (..., out_dim)."""
        scales, shifts = modulation.unflatten(-1, (2, self.depth, self.width)).unbind(-3)  # (..., L, D) each
        for level in range(self.depth):
            x = self.layers[2 * level](x)
            x = (x * (1 + scales[..., level, :]) + shifts[..., level, :]).relu()
        return self.layers[-1](x)

    def weights(self) -> kernels.Weights:
        """Stacked as `lmf.kernels` takes them."""
        first, *hidden, out = (layer for layer in self.layers if isinstance(layer, nn.Linear))
        square = first.weight.new_empty(0, self.width, self.width)
        return kernels.Weights(
            first=first.weight,
            hidden=torch.stack([layer.weight for layer in hidden]) if hidden else square,
            out=out.weight,
            bias=torch.stack([layer.bias for layer in (first, *hidden)]),
            out_bias=out.bias,
        )


class LMFDecoder(Decoder):
    """Base of the LMF decoders. Subclasses set ``imnet: ModulatedMLP``, define `latent`, and say what ``imnet`` reads.

    Either set ``input_encoding`` to one that `lmf.kernels` renders fused and define `extra`, or define `render_input`.

    ``fused_grids``: whole grids are rendered by the kernels too, without `decode` and `query`. A subclass that defines
    one of these turns this off, and one that defines `render_input` turns ``input_encoding`` off, unless it sets them.
    """

    imnet: ModulatedMLP
    input_encoding: kernels.InputEncoding | None = None
    fused_grids: bool = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "render_input" in vars(cls) and "input_encoding" not in vars(cls):
            cls.input_encoding = None
        if {"decode", "query"} & vars(cls).keys() and "fused_grids" not in vars(cls):
            cls.fused_grids = False

    def __init__(self, in_channels: int, skip: Skip = "none", clip_scale: float | None = 4.0) -> None:
        super().__init__(in_channels, skip, clip_scale)

    def extra(self, rel_cell: Tensor) -> Tensor:
        """What the renderer reads that is one per image, (B, E), as ``input_encoding`` says (`lmf.kernels.render`).

        Args:
            rel_cell: (B, 2) size of an output pixel, one latent cell spanning 2 units.
        """
        raise TypeError(
            f"{type(self).__name__} sets input_encoding = {self.input_encoding!r} but does not define extra(rel_cell)"
        )

    def render_input(self, code: Tensor, rel: Tensor, rel_cell: Tensor) -> Tensor:
        """What the renderer reads, where that has none of the fused forms.

        Args:
            code: (B, Q, K) of the latent at hand.
            rel: (B, Q, 2) coordinate relative to its centre, one latent cell spanning 2 units.
            rel_cell: (B, Q, 2) size of an output pixel in the same units.

        Returns:
            (B, Q, in_dim of ``imnet``).
        """
        raise TypeError(f"{type(self).__name__} defines neither input_encoding nor render_input(code, rel, rel_cell)")

    def decode(self, latent: ModulatedLatent, coord: Tensor, cell: Tensor) -> Tensor:
        rel_cell = grid.relative_cell(cell, latent.size)  # (B, 2)
        if encoding := self.fused_encoding:
            extra, weights = self.extra(rel_cell), self.imnet.weights()
            return kernels.render(latent.modulation, latent.code, extra, coord, weights, encoding)
        cells = rel_cell[:, None].expand(*coord.shape)
        return kernels.blend(
            latent.modulation,
            latent.code,
            coord,
            lambda modulation, code, rel: self.imnet(self.render_input(code, rel, cells), modulation),
        )

    def render(self, latent: Any, target: grid.Grid, cell: Tensor) -> Tensor:
        inputs = self.kernel_inputs(latent, cell)
        if inputs is None:
            return super().render(latent, target, cell)
        return kernels.render_grid(
            inputs.modulation, inputs.code, inputs.extra, target, inputs.image, inputs.weights, inputs.encoding
        )

    @property
    def constant_memory(self) -> bool:
        return self.fused_encoding is not None and self.fused_grids

    @property
    def fused_encoding(self) -> kernels.InputEncoding | None:
        """``input_encoding`` if the kernels can render ``imnet``."""
        return self.input_encoding if self.imnet.fusable else None

    def intensity(self, latent: ModulatedLatent) -> Tensor:
        return latent.intensity()

    def kernel_inputs(self, latent: ModulatedLatent, cells: Tensor) -> KernelInputs | None:
        encoding = self.fused_encoding
        if encoding is None or not self.fused_grids:
            return None
        return KernelInputs(
            modulation=latent.modulation,
            code=latent.code,
            extra=self.extra(grid.relative_cell(cells, latent.size)),
            image=self.skipped(latent),
            weights=self.imnet.weights(),
            encoding=encoding,
        )
