"""The range of features, which bounds the input of a decoder."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lmf.grid import Size
from lmf.io.colour import to_network
from lmf.model import SRModel


@torch.no_grad()
def feature_range(model: SRModel, pictures: Iterable[tuple[Tensor, Size]]) -> tuple[Tensor, Tensor]:
    """Return the least and the largest value of each channel of the encoder's features; see `LMFDecoder.bound`.

    Args:
        model: the model.
        pictures: LR pictures (3, h, w) in [0, 1] with output sizes, such as `Pictures`; at least one.

    Returns:
        Two tensors (C,).
    """
    features = (model.features(model.pad(to_network(lr[None].to(model.device)))) for lr, _ in pictures)
    ranges = [(feat.amin((0, 2, 3)), feat.amax((0, 2, 3))) for feat in features]
    low, high = zip(*ranges, strict=True)
    return torch.stack(low).amin(0), torch.stack(high).amax(0)
