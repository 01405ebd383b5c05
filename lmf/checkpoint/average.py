"""The mean of the weights of several models."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lmf.checkpoint.building import build, options
from lmf.errors import UserError
from lmf.model import SRModel


def average(models: Sequence[SRModel], *, trust: Sequence[str] = ()) -> SRModel:
    """Return the model whose weights are the mean of those of the given models (model soups; Wortsman et al., 2022).

    The mean is better than each of the models if they were trained from one another or from one start, so that their
    weights are near each other. It means nothing for models that were initialised apart.

    Args:
        models: models with the same encoder and decoder, at least one. A model that is given twice counts twice.
        trust: see `load`.

    Raises:
        UserError: if there is no model, or the options of their encoders or decoders differ.
    """
    if not models:
        raise UserError("an average needs at least one model")
    first, *others = [
        {part: options(getattr(model, part), (model.config or {})[part]) for part in ("encoder", "decoder")}
        for model in models
    ]
    for number, other in enumerate(others, 2):
        if other != first:
            raise UserError(
                "only models with the same encoder and decoder can be averaged: "
                f"model {number} has {other}, the first {first}"
            )
    result = build(models[0].config or {}, trust=trust).eval()
    states = [model.state_dict() for model in models]
    with torch.no_grad():
        for name, tensor in result.state_dict().items():
            values = [state[name] for state in states]
            exact = torch.stack([value.double() for value in values]).mean(0)
            tensor.copy_(exact if tensor.is_floating_point() else values[0])
    return result
