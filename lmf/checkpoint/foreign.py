"""Checkpoints of other programs: finds the weights in them and identifies the published model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lmf.checkpoint.translate import count, without_wrappers
from lmf.errors import UserError

# Keys under which programs store weights, the preferred one first. BasicSR stores an average and the last weights.
_PLACES = ("params_ema", "params", "state_dict", "model_state_dict", "model")
_GENERATOR = "generator."


def unwrap(checkpoint: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Tensor], list[str]]:
    """Extract a published model from the content of a checkpoint.

    Args:
        checkpoint: ``{"model": {"name", "args", "sd"}}`` as saved by the released code, or a state dict, alone or under
            ``params_ema``, ``params``, ``state_dict``, ``model_state_dict`` or ``model``. The description of a state
            dict is inferred.

    Returns:
        The description ``{"name": ..., "args": {...}}``, the state dict, and notes for the user.

    Raises:
        UserError: if there is no published model. The message says what the checkpoint seems to be.
    """
    model = checkpoint.get("model")
    if isinstance(model, Mapping) and {"name", "args", "sd"} <= model.keys():
        return model, model["sd"], []
    for place in (*_PLACES, None):
        state = checkpoint if place is None else checkpoint.get(place)
        if isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values()):
            break
    else:
        wanted = "{'model': {'name', 'args', 'sd'}} or a state dict"
        raise UserError(f"not a published checkpoint, it {seems(checkpoint)}; expected {wanted}")
    state = without_wrappers(state)
    if any(key.startswith(_GENERATOR) for key in state):  # mmedit; other keys belong to its losses and its average
        state = without_wrappers({k.removeprefix(_GENERATOR): v for k, v in state.items() if k.startswith(_GENERATOR)})
    spec = describe(state)
    where = "" if place is None else f" under {place!r}"
    encoder = (spec["args"].get("encoder_spec") or spec["args"]["encoder"])["name"]
    return spec, state, [f"weights{where} have no description; loaded as {spec['name']} with {encoder}"]


def describe(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer the description of a published model from the names and shapes of its weights.

    Raises:
        UserError: if the model is unknown, or the weights do not determine its description.
    """
    roots = {key.partition(".")[0] for key in state}
    if "encoder" not in roots:
        raise UserError(f"weights of an unknown model (they are called {', '.join(sorted(roots)[:5])}, ...)")
    mlp = {"name": "mlp", "args": {}}
    lmmlp = {"name": "lmmlp", "args": {}}
    if "imnet_q" in roots:
        args: dict[str, Any] = dict.fromkeys(("imnet_q", "imnet_k", "imnet_v"), mlp)
        if "hypernet_q" in roots:
            name, args = "lmciaosr", args | {"imnet_q": lmmlp, "hypernet_q": mlp, "prenet_q": mlp}
        else:
            name = "ciaosr"
        return {"name": name, "args": {"encoder": _encoder(state), **args}}
    if "hypernet" in roots:
        name, args = "lmlte" if "coef" in roots else "lmliif", {"imnet_spec": lmmlp, "hypernet_spec": mlp}
    elif "coef" in roots:
        name, args = ("lte", {"imnet_spec": mlp}) if "imnet" in roots else ("lte-fast", {})
    elif "imnet" in roots:
        *_, last = (value for key, value in state.items() if key.startswith("imnet.") and key.endswith(".bias"))
        name, args = ("liif", {"imnet_spec": mlp}) if len(last) == 3 else ("metasr", {})
    else:
        raise UserError(f"weights of an unknown decoder ({', '.join(sorted(roots - {'encoder'})) or 'none'})")
    return {"name": name, "args": {"encoder_spec": _encoder(state), **args}}


def _encoder(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer the description of the encoder; see `describe`."""
    if "encoder.SFENet1.weight" in state:
        return {"name": "rdn", "args": {"no_upsampling": True}}
    if "encoder.patch_embed.norm.weight" in state:
        return {"name": "swinir", "args": {"no_upsampling": True}}
    if "encoder.head.0.weight" in state:
        size = count(state, r"encoder\.body\.(\d+)\.body\."), len(state["encoder.head.0.weight"])
        names = {(16, 64): "edsr-baseline", (32, 256): "edsr"}
        if size not in names:  # the weights do not show the factor on residual branches
            raise UserError(f"an EDSR of {size[0]} blocks of width {size[1]} needs a description with its res_scale")
        return {"name": names[size], "args": {"no_upsampling": True}}
    keys = [key for key in state if key.startswith("encoder.")]
    raise UserError(f"weights of an unknown encoder ({', '.join(keys[:3])}, ...)")


def seems(checkpoint: Mapping[str, Any]) -> str:
    """Describe a checkpoint in which no weights were found, as the end of a sentence."""
    keys = list(checkpoint)
    if "pytorch-lightning_version" in checkpoint:
        return "seems to be a Lightning checkpoint of another project"
    if isinstance(checkpoint.get("model"), Mapping) and "name" in checkpoint["model"]:
        return "describes a model but contains no weights"
    if {"state_dict", "optimizer", "optimizer_states", "optimizer_state_dict"} & set(keys):
        return f"seems to be the training state of another project (keys {', '.join(map(str, keys[:5]))})"
    return f"has keys {', '.join(map(str, keys[:5])) or 'none'}"
