"""The common part of all Latent Modulated Functions (LMF; He & Jin, CVPR 2024).

A hypernetwork decodes each latent *once* into modulations of a tiny MLP (section 3.2), and that MLP renders every
output pixel (section 3.3). A method defines the input of the hypernetwork (`latent`) and the input of the renderer
besides the modulations. Everything else is shared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmf import grid, kernels
from lmf.decoders.base import Decoder, KernelInputs, Latent, Skip


def redefines(cls: type, methods: set[str], attribute: str) -> bool:
    """Return whether a class before the one that sets ``attribute``, in method resolution order, has ``methods``.

    ``attribute`` then describes other methods than those of ``cls``, which may come from a mixin.

    Args:
        cls: the class.
        methods: names of methods.
        attribute: class attribute that states how the methods next to it behave.
    """
    for base in cls.__mro__:
        if attribute in vars(base):
            return False
        if methods & vars(base).keys():
            return True
    return False


@dataclass(frozen=True)
class ModulatedLatent(Latent):
    """Modulations and codes, one of each per latent.

    Attributes:
        modulation: (B, h, w, 2 L D): all scales (L x D), then all shifts (L x D).
        code: (B, h, w, K), the part of a latent that the renderer reads besides the modulations.
    """

    modulation: Tensor
    code: Tensor

    def intensity(self) -> Tensor:
        """Return the modulation intensity (B, h, w), the mean absolute shift (section 3.4).

        It measures how much detail a latent carries.
        """
        return self.modulation[..., self.modulation.shape[-1] // 2 :].abs().mean(dim=-1)


class ModulatedMLP(nn.Module):
    """The MLP that renders pixels: modulated hidden layers, then an unmodulated output layer.

    Hidden layer l computes ``x = relu((W x + b) * (1 + scale_l) + shift_l)`` (eq. 6).

    Args:
        in_dim: width of the input.
        width: width D of the hidden layers.
        depth: number L of hidden layers.
        out_dim: width of the output.

    Attributes:
        fusable: whether the kernels can compute the same from `weights`. It defaults to False for a subclass that
            defines `forward` or inherits another one.
    """

    fusable: bool = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if redefines(cls, {"forward"}, "fusable"):
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
        """Number of modulations per latent, 2 L D."""
        return 2 * self.width * self.depth

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Map ``x`` (..., in_dim) with ``modulation`` (..., 2 L D) to (..., out_dim)."""
        scales, shifts = modulation.unflatten(-1, (2, self.depth, self.width)).unbind(-3)  # (..., L, D) each
        for level in range(self.depth):
            x = self.layers[2 * level](x)
            x = (x * (1 + scales[..., level, :]) + shifts[..., level, :]).relu()
        out: Tensor = self.layers[-1](x)
        return out

    def weights(self) -> kernels.Weights:
        """Return the weights, stacked for `lmf.kernels`."""
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
    """Base class of the LMF decoders.

    Subclasses set ``imnet`` and define `latent`. For fused rendering they set ``input_encoding`` and define `extra`;
    otherwise they define `render_input`.

    Args:
        in_channels, skip, clip_scale: see `Decoder`.
        bounded: whether to clamp features to a range for each channel, see `bound`. The published models do not.

    Attributes:
        imnet: the renderer.
        input_encoding: input encoding of the fused kernels, see `lmf.kernels`. It defaults to None for a subclass that
            defines `render_input` or inherits another one.
        fused_grids: whether the kernels render whole grids without calling `decode` and `query`. It defaults to False
            for a subclass that defines one of these or inherits another one.
    """

    imnet: ModulatedMLP
    feat_low: Tensor
    feat_high: Tensor
    input_encoding: kernels.InputEncoding | None = None
    fused_grids: bool = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if redefines(cls, {"render_input"}, "input_encoding"):
            cls.input_encoding = None
        if redefines(cls, {"decode", "query"}, "fused_grids"):
            cls.fused_grids = False

    def __init__(
        self, in_channels: int, skip: Skip = "none", clip_scale: float | None = 4.0, bounded: bool = False
    ) -> None:
        super().__init__(in_channels, skip, clip_scale)
        self.bounded = bounded
        if bounded:
            limits = torch.finfo(torch.float16)
            self.register_buffer("feat_low", torch.full((in_channels,), limits.min))
            self.register_buffer("feat_high", torch.full((in_channels,), limits.max))

    def bound(self, feat: Tensor) -> Tensor:
        """Clamp features to the range of ``feat_low`` and ``feat_high``, if the decoder is bounded.

        Each modulated layer multiplies what lies outside the range of the training pictures, so that a feature three
        times too large can make a colour a hundred times too large. With the range of photographs, the clamp does not
        change photographs.

        Args:
            feat: (B, C, h, w).
        """
        if not self.bounded:
            return feat
        return torch.clamp(feat, self.feat_low[:, None, None], self.feat_high[:, None, None])

    def extra(self, rel_cell: Tensor) -> Tensor:
        """Return the input of the renderer that is constant per image, see `lmf.kernels.render`.

        Args:
            rel_cell: (B, 2) size of an output pixel; one latent cell spans 2 units.

        Returns:
            (B, E), where E depends on ``input_encoding``.
        """
        raise TypeError(
            f"{type(self).__name__} sets input_encoding = {self.input_encoding!r} but does not define extra(rel_cell)"
        )

    def render_input(self, code: Tensor, rel: Tensor, rel_cell: Tensor) -> Tensor:
        """Return the input of the renderer if none of the fused encodings matches.

        Args:
            code: (B, Q, K), code of the latent.
            rel: (B, Q, 2) coordinate relative to the latent's centre; one latent cell spans 2 units.
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
        """Whether the fused kernels render whole grids, which takes no temporaries."""
        return self.fused_encoding is not None and self.fused_grids

    @property
    def fused_encoding(self) -> kernels.InputEncoding | None:
        """``input_encoding`` if the kernels can render ``imnet``, else None."""
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
