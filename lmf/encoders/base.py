"""The base class of encoders, which map an image to features at the same resolution, and their convolutions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from lmf import kernels
from lmf.encoders.stages import Stage
from lmf.errors import UserError


class Encoder(nn.Module):
    """Base class of encoders, which map an image (B, 3, h, w) in [-1, 1] to features (B, ``out_channels``, h, w).

    Args:
        out_channels: width C of the features.

    Attributes:
        multiple: h and w must be multiples of it. `lmf.SRModel` pads by reflection at the bottom and right and adapts
            the coordinates, so only direct callers of an encoder have to pad.
        receptive_field: largest distance in pixels, along either axis, from which a pixel influences a feature, if
            pictures are cut at multiples of ``multiple``. None if no bound is known; pictures are then encoded whole.

    Raises:
        UserError: if ``out_channels`` is smaller than 1.
    """

    multiple: int = 1
    receptive_field: int | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "forward" in vars(cls) and "stages" not in vars(cls):
            cls.stages = Encoder.stages  # type: ignore[method-assign]  # the inherited steps are those of another forward

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        if out_channels < 1:
            raise UserError(f"out_channels must be at least 1, got {out_channels}")
        self.out_channels = out_channels

    def forward(self, image: Tensor) -> Tensor:
        """Return the features (B, C, h, w) of ``image`` (B, 3, h, w) in [-1, 1]."""
        raise TypeError(f"{type(self).__name__} does not define forward(image)")

    def stages(self) -> Sequence[Stage]:
        """Return the steps that `forward` consists of, the last of which returns the features.

        With them a picture is encoded strip by strip without an overlap of the whole receptive field
        (`lmf.inference.lines`). They are empty if the encoder has none; pictures are then encoded in tiles. A subclass
        that overrides `forward` has none unless it defines them again.
        """
        return ()

    def grow_from(self, smaller: Encoder) -> bool:
        """Take the weights of an encoder with fewer layers, so that both compute the same features.

        Returns:
            Whether that is possible. If not, the weights do not change.
        """
        return False


def convolve(
    conv: nn.Module, x: Tensor, *, relu: bool = False, skip: Tensor | None = None, scale: float = 1.0
) -> Tensor:
    """Compute ``scale * conv(x) + skip`` or ``relu(conv(x))``, with `lmf.kernels` where that is possible.

    Args:
        conv: a 3x3 convolution of padding 1.
        x: (B, C, h, w).
        relu: apply a ReLU; not together with ``skip`` and ``scale``.
        skip: (B, C', h, w) to add, or None.
        scale: factor of the convolution and its bias.
    """
    if type(conv) is nn.Conv2d and fusible(x, [conv]):
        return kernels.conv3x3(x, conv.weight, conv.bias, relu=relu, skip=skip, scale=scale)
    y: Tensor = conv(x)
    if relu:
        return y.relu_()  # in place: allocating large maps costs more than the operation
    if scale != 1:
        y = y * scale
    return y if skip is None else y.add_(skip)


def fusible(x: Tensor, convs: Sequence[nn.Conv2d], around: Iterable[nn.Module] = ()) -> bool:
    """Return whether `lmf.kernels` may compute 3x3 convolutions of ``x`` (B, C, h, w) without calling the modules.

    Args:
        x: a map of the dtype and on the device of all others.
        convs: the convolutions. They must have no hooks, and be `usual`.
        around: modules that would call them; they must have no hooks either.
    """
    return (
        kernels.serves(x, *(c for conv in convs for c in (conv.in_channels, conv.out_channels)))
        and all(map(usual, convs))
        and not _has_any_global_hook()
        and not any(map(hooked, (*convs, *around)))
    )


def usual(conv: nn.Conv2d) -> bool:
    """Return whether ``conv`` is a plain 3x3 convolution of padding 1, not one that was put in its place."""
    sizes = (conv.kernel_size, conv.padding, conv.stride, conv.dilation, conv.groups, conv.padding_mode)
    return type(conv) is nn.Conv2d and sizes == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


def weights(convs: Sequence[nn.Conv2d]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the weights and the biases of ``convs``; zeros for no bias."""
    biases = [conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias for conv in convs]
    return [conv.weight for conv in convs], biases


def hooked(module: nn.Module) -> bool:
    """Return whether calling ``module`` calls hooks."""
    before, after = module._forward_pre_hooks, module._forward_hooks
    return bool(before or after or module._backward_pre_hooks or module._backward_hooks)
