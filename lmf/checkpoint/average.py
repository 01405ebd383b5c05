"""The mean of the weights of several models."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lmf.checkpoint.files import build
from lmf.errors import UserError
from lmf.model import SRModel


def average(models: Sequence[SRModel], *, trust: Sequence[str] = ()) -> SRModel:
    """Return the model whose weights are the mean of those of the given models (model soups; Wortsman et al., 2022).

    The mean is better than each of the models if they were trained from one another or from one start, so that their
    weights are near each other. It means nothing for models that were initialised apart.

    Args:
        models: models of the same config, at least one. A model that is given twice counts twice.
        trust: see `load`.

    Raises:
        UserError: if there is no model, or their configs differ.
    """
    if not models:
        raise UserError("an average needs at least one model")
    first = models[0]
    for number, model in enumerate(models[1:], 2):
        if model.config is None or model.config != first.config:
            raise UserError(f"only models of the same config can be averaged, model {number} differs from the first")
    result = build(first.config or {}, trust=trust).eval()
    states = [model.state_dict() for model in models]
    with torch.no_grad():
        for name, tensor in result.state_dict().items():
            values = [state[name] for state in states]
            exact = torch.stack([value.double() for value in values]).mean(0)
            tensor.copy_(exact if tensor.is_floating_point() else values[0])
    return result
