"""Describes a loaded model for programs that host models of many kinds."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmf.checkpoint.files import find, load, read_card
from lmf.checkpoint.pickles import is_safetensors
from lmf.model import SRModel


@dataclass(frozen=True)
class SizeRequirements:
    """Sizes that a network accepts.

    Attributes:
        minimum: smallest height and width in pixels.
        multiple_of: the networks compute on multiples of it; `SRModel` pads other pictures.
    """

    minimum: int = 1
    multiple_of: int = 1


@dataclass(frozen=True)
class ModelDescriptor:
    """A model and what a program must know to use it.

    Attributes:
        model: the model, in evaluation mode.
        architecture: classes of decoder and encoder, such as ``"LMLIIF-EDSR"``.
        parameters: number of weights.
        size_requirements: sizes that the network accepts.
        tiling: whether tiles with ``overlap`` give the same picture as a whole.
        overlap: LR pixels beyond a tile that affect it; None if all do.
        licence: licence of the weights; None if the file does not say.
        card: all facts in the file.
        purpose: what the model does.
        scale: the scale of the model; None means any, chosen in each call.
        input_channels, output_channels: channels of the network. Calls also accept grey pictures and alpha.
        dtypes: types in which the weights can be stored.
        autocast: types for `torch.autocast`.
    """

    model: SRModel
    architecture: str
    parameters: int
    size_requirements: SizeRequirements
    tiling: bool
    overlap: int | None
    licence: str | None
    card: Mapping[str, Any]
    purpose: str = "SR"
    scale: None = None
    input_channels: int = 3
    output_channels: int = 3
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)
    autocast: tuple[torch.dtype, ...] = (torch.bfloat16,)

    @classmethod
    def of(cls, model: SRModel, card: Mapping[str, Any]) -> ModelDescriptor:
        """Describe ``model``, whose facts are in ``card``."""
        fields = (model.encoder.receptive_field, model.decoder.receptive_field)
        local = [field for field in fields if field is not None]
        tiling = len(local) == len(fields) and model.renderer.pointwise
        return cls(
            model=model,
            architecture=f"{type(model.decoder).__name__}-{type(model.encoder).__name__}",
            parameters=sum(p.numel() for p in model.parameters()),
            size_requirements=SizeRequirements(multiple_of=math.lcm(model.encoder.multiple, model.decoder.multiple)),
            tiling=tiling,
            overlap=sum(local) if tiling else None,
            licence=card.get("licence"),
            card=card,
        )

    def __call__(self, image: Tensor, *, scale: float | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """Enlarge ``image`` ([B,] C, h, w) in [0, 1]; see `SRModel.upscale`."""
        return self.model.upscale(image, scale=scale, size=size)


def load_descriptor(
    source: str | os.PathLike[str], *, trust: Sequence[str] = (), device: str | torch.device = "cpu"
) -> ModelDescriptor:
    """Load a model and describe it. Like `lmf.load` it executes nothing from the file.

    Args:
        source: see `lmf.load`.
        trust: see `lmf.load`.
        device: device of the model.

    Raises:
        CheckpointError: if the file does not exist, is damaged, holds no model, or holds weights that are not finite.
    """
    path = find(source)
    model = load(path, trust=trust, device=device)
    return ModelDescriptor.of(model, read_card(path) if is_safetensors(path) else {})
