"""Runs convolutions with the compiled CPU kernel (winograd.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from lmf.kernels.build import library
from lmf.kernels.native import Convolution, Kept

WORTH = 1 << 20  # multiply-adds that are worth a thread


def native(x: Tensor) -> bool:
    """Return whether the library computes convolutions of ``x``; PyTorch does otherwise."""
    return x.dtype == torch.float32 and x.device.type == "cpu" and library() is not None


class Steps(Kept):
    """Convolutions that the library runs one after the other, and the tensors that they point to."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Convolution] = []

    def add(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        y: Tensor,
        relu: bool = False,
        skip: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        """Append a convolution from ``x`` (B, h, w, C) to ``y`` (B, h, w, C'); these and ``skip`` as from `evenly`."""
        step = self.shaped(x, y)
        step.weight_out, step.weight_in, step.weight_row, step.weight_column = weight.stride()
        step.weight, step.bias, step.relu, step.scale = self.strided(weight), self.address(bias), relu, scale
        if skip is not None:
            step.skip, step.skip_stride = self.strided(skip), distance(skip)
        self.steps.append(step)

    def shaped(self, x: Tensor, y: Tensor) -> Convolution:
        """Return a convolution from ``x`` to ``y`` without weights."""
        batch, height, width, inputs = x.shape
        return Convolution(
            batch=batch,
            height=height,
            width=width,
            inputs=inputs,
            outputs=y.shape[3],
            x_stride=distance(x),
            y_stride=distance(y),
            x=self.strided(x),
            y=self.strided(y),
        )

    def run(self) -> None:
        """Run the convolutions."""
        native = library()
        assert native is not None
        count = len(self.steps)
        native.convolutions((Convolution * count)(*self.steps), count, max(map(threads, self.steps)))


def threads(step: Convolution) -> int:
    """Return the number of threads for a convolution."""
    macs = step.batch * step.height * step.width * step.inputs * step.outputs
    return max(1, min(torch.get_num_threads(), int(macs // WORTH)))


def evenly(x: Tensor) -> Tensor:
    """Return ``x`` (B, C, h, w) as (B, h, w, C) whose pixels lie at even distances, copied if necessary."""
    x = x.permute(0, 2, 3, 1)
    _, h, w, _ = x.shape
    between = x.stride(2)
    return x if x.stride() == (h * w * between, w * between, between, 1) else x.contiguous()


def distance(x: Tensor) -> int:
    """Return the distance of the pixels of ``x``, a result of `evenly`."""
    return x.shape[3] if x.is_contiguous() else x.stride(2)


def maps(x: Tensor, channels: int) -> Tensor:
    """Return uninitialised maps (B, h, w, channels) for ``x`` (B, C, h, w)."""
    return x.new_empty(x.shape[0], *x.shape[2:], channels)


def channels_last(x: Tensor, channels: int) -> Tensor:
    """Return an uninitialised channels-last result (B, channels, h, w) for ``x`` (B, C, h, w)."""
    return maps(x, channels).permute(0, 3, 1, 2)
