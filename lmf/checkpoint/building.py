"""Builds models from configs, which may come from files and name only trusted classes."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lmf.decoders.base import Decoder
from lmf.encoders.base import Encoder
from lmf.errors import UserError
from lmf.model import SRModel

PARTS = ("encoder", "decoder", "renderer")


def build(config: Mapping[str, Any], *, trust: Sequence[str] = ()) -> SRModel:
    """Build a model with random weights from a config.

    Args:
        config: ``{"encoder": {"_target_": ..., ...}, "decoder": {...}, "renderer": {...}}``. ``_target_`` is the dotted
            name of a class, all other entries are its arguments. The renderer is optional.
        trust: packages other than ``lmf`` whose classes the config may name.

    Raises:
        UserError: if a class is not trusted or does not exist, does not accept its arguments, or the parts do not fit
            together.
    """
    parts = {part: _instantiate(config[part], trust) for part in PARTS if config.get(part)}
    for part, kind in (("encoder", Encoder), ("decoder", Decoder)):
        if not isinstance(parts.get(part), kind):
            raise UserError(f"config[{part!r}] must name a subclass of lmf.{part}s.{kind.__name__}")
    try:
        model = SRModel(**parts)
    except ValueError as error:  # the parts do not fit together
        raise UserError(str(error)) from error
    model.config = json.loads(json.dumps({part: config[part] for part in parts}))
    return model


def _instantiate(config: Mapping[str, Any], trust: Sequence[str]) -> Any:
    """Create the object that ``config`` describes, if its class is trusted."""
    options = dict(config)
    target = str(options.pop("_target_", None))
    module, _, name = target.rpartition(".")
    package = module.partition(".")[0]
    if module not in ("lmf.encoders", "lmf.decoders", "lmf.renderers") and package not in trust:
        raise UserError(
            f"{target} is not a class of lmf.encoders, lmf.decoders or lmf.renderers; "
            f"if you trust {package or 'it'}, give trust=[{package!r}]"
        )
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"there is no {target}: {error}") from error
    if not isinstance(cls, type):
        raise UserError(f"{target} is not a class")
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{target}: {error}") from error


def options(part: nn.Module, config: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the ``config`` of an encoder or decoder with the defaults of its class, in plain types."""
    defaults = {k: p.default for k, p in inspect.signature(type(part)).parameters.items() if p.default is not p.empty}
    complete: dict[str, Any] = json.loads(json.dumps({**defaults, **config}))
    return complete
