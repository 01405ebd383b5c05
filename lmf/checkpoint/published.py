"""Translates the checkpoints published by the authors of LIIF, LTE, CiaoSR, SRNO, LMF and Thera into our models.

They contain ``{name, args}`` and a state dict, whose names only this module and `published_encoders` know. The
translation keeps all options that the weights depend on and returns a note for every other one. Missing options have
the defaults of the published code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lmf.checkpoint import published_thera
from lmf.checkpoint.published_encoders import ENCODERS
from lmf.checkpoint.translate import (
    Config,
    Converter,
    State,
    drop,
    note_unknown,
    rename,
    require,
    spec_args,
    widths,
    without_wrappers,
)
from lmf.errors import UserError

# Known options of the published decoders. Options that are not translated affect only training or evaluation.
_KNOWN = ("encoder_spec", "encoder", "imnet_spec", "hypernet_spec", "imnet_q", "imnet_k", "imnet_v", "prenet_q",
          "hypernet_q", "hidden_dim", "local_ensemble", "feat_unfold", "cell_decode", "mod_input", "local_size",
          "non_local_attn", "multi_scale", "softmax_scale", "eval_bsize", "cmsr_spec", "width", "blocks")  # fmt: skip


def convert(spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> tuple[Config, State, list[str]]:
    """Translate a published model.

    Args:
        spec: ``{"name": ..., "args": {...}}`` as stored in published checkpoints.
        state_dict: its weights.

    Returns:
        The config for `lmf.checkpoint.build` (``encoder`` and ``decoder`` with ``_target_``), the state dict, and a
        one-line note for everything that is not translated exactly.

    Raises:
        UserError: if the model is unknown, an option is not supported, or weights are missing.
    """
    try:
        name, args = spec["name"], dict(spec.get("args") or {})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"a model description needs name and args, got {spec!r}") from error
    if name == "thera":
        try:
            return published_thera.convert(args, without_wrappers(state_dict))
        except KeyError as error:
            raise UserError(f"thera: no {error.args[0]} in its weights") from error
    encoder = args.get("encoder_spec") or args.get("encoder") or {}
    if not isinstance(encoder, Mapping):
        raise UserError(f"the encoder needs name and args, got {encoder!r:.40}")
    encoder_name = encoder.get("name")
    if name not in DECODERS:
        raise UserError(f"unknown model {name!r}; known: {', '.join(DECODERS)}, thera")
    if encoder_name not in ENCODERS:
        raise UserError(f"unknown encoder {encoder_name!r}; known: {', '.join(ENCODERS)}")
    notes: list[str] = []
    note_unknown(args, _KNOWN, "decoder", notes)
    state_dict = without_wrappers(state_dict)
    encoder_weights = {k.removeprefix("encoder."): v for k, v in state_dict.items() if k.startswith("encoder.")}
    decoder_weights = {k: v for k, v in state_dict.items() if not k.startswith("encoder.")}
    try:
        encoder_config, encoder_state = ENCODERS[encoder_name](dict(encoder.get("args") or {}), encoder_weights, notes)
        decoder_config, decoder_state = DECODERS[name](args, decoder_weights, notes)
    except KeyError as error:
        raise UserError(f"{name} with {encoder_name}: no {error.args[0]} in its description or weights") from error
    decoder_config["in_channels"] = encoder_config["out_channels"]
    state = {f"encoder.{k}": v for k, v in encoder_state.items()}
    state |= {f"decoder.{k}": v for k, v in decoder_state.items()}
    return {"encoder": encoder_config, "decoder": decoder_config}, state, notes


def liif(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    """Translate LIIF, see `Converter`."""
    require(args, local_ensemble=True, feat_unfold=True, cell_decode=True)
    plain_mlp(args, "imnet_spec", notes)
    return {"_target_": "lmf.decoders.LIIF", "hidden": widths(state, "imnet.layers")}, state


def metasr(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    """Translate Meta-SR, see `Converter`."""
    return {"_target_": "lmf.decoders.MetaSR", "hidden": widths(state, "imnet.layers")}, state


def lte(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    """Translate LTE, see `Converter`."""
    require(args, local_ensemble=True, cell_decode=True)
    plain_mlp(args, "imnet_spec", notes)
    return {
        "_target_": "lmf.decoders.LTE",
        "hidden_dim": len(state["coef.weight"]),
        "hidden": widths(state, "imnet.layers"),
    }, state


def lte_plus(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    """Translate LTE+, see `Converter`."""
    state = rename(state, {r"layers\.": "imnet.layers."})
    # The published code has 1 x 1 convolutions in place of linear layers.
    state = {k: v.flatten(1) if k.startswith("imnet.") and v.dim() == 4 else v for k, v in state.items()}
    config, state = lte(args, state, notes)
    return config | {"_target_": "lmf.decoders.LTEPlus"}, state


def ciaosr(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    """Translate CiaoSR, see `Converter`."""
    state = cross_scale(args, state, notes)
    plain_mlp(args, "imnet_q", notes)
    return {
        "_target_": "lmf.decoders.CiaoSR",
        **{f"hidden_{x}": widths(state, f"imnet_{x}.layers") for x in "qkv"},
    }, state


def srno(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    """Translate SRNO, see `Converter`. The published code has 1 x 1 convolutions in place of linear layers."""
    state = rename(
        state,
        {
            r"conv00\.": "lift.",
            r"conv(\d+)\.qkv_proj\.": r"attention.\1.qkv.",
            r"conv(\d+)\.o_proj([12])\.": r"attention.\1.out\2.",
            r"conv(\d+)\.kln\.": r"attention.\1.key_norm.",
            r"conv(\d+)\.vln\.": r"attention.\1.value_norm.",
        },
    )
    state = {k: v.flatten(1) if v.dim() > 2 else v for k, v in state.items()}
    norm = state["attention.0.key_norm.weight"]
    return {"_target_": "lmf.decoders.SRNO", "width": len(state["lift.weight"]), "heads": len(norm)}, state


def lm_liif(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    """Translate LM-LIIF, see `Converter`."""
    require(args, local_ensemble=True, feat_unfold=True, cell_decode=True)
    return {"_target_": "lmf.decoders.LMLIIF", **lmf_options(args, "imnet_spec", "hypernet_spec", state, notes)}, state


def lm_lte(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    """Translate LM-LTE, see `Converter`."""
    require(args, local_ensemble=True, cell_decode=True)
    return {
        "_target_": "lmf.decoders.LMLTE",
        "hidden_dim": len(state["coef.weight"]),
        **lmf_options(args, "imnet_spec", "hypernet_spec", state, notes),
    }, state


def lm_ciaosr(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    """Translate LM-CiaoSR, see `Converter`."""
    state = rename(cross_scale(args, state, notes), {r"(imnet|hypernet)_q\.": r"\1."})
    plain_mlp(args, "prenet_q", notes)
    notes.append("decoder: uses the bilinear skip in training and evaluation; the authors use it only in evaluation")
    return {
        "_target_": "lmf.decoders.LMCiaoSR",
        "prenet": widths(state, "prenet_q.layers"),
        "hidden_k": widths(state, "imnet_k.layers"),
        "hidden_v": widths(state, "imnet_v.layers"),
        **lmf_options(args, "imnet_q", "hypernet_q", state, notes),
    }, state


def cross_scale(args: Config, state: State, notes: list[str]) -> State:
    """Translate the parts that CiaoSR and LM-CiaoSR share, and return the remaining weights."""
    require(args, local_size=2, feat_unfold=True, non_local_attn=True, multi_scale=[2], softmax_scale=1)
    plain_mlp(args, "imnet_k", notes)
    plain_mlp(args, "imnet_v", notes)
    notes.append(
        "decoder: computes non-local features also for images of more than 48 x 48 pixels with one side below 48; the "
        "authors set them to zero there"
    )
    return drop(state, r"cs_attn\.escape_NaN")


def plain_mlp(args: Config, key: str, notes: list[str]) -> None:
    """Check that ``args[key]``, if given, describes an MLP with ReLU. Its sizes are read from the weights.

    Raises:
        UserError: if it does not.
    """
    if args.get(key) is not None:
        spec_args(args[key], key, "mlp", "in_dim", "out_dim", "hidden_list", notes=notes)


def lmf_options(args: Config, imnet: str, hypernet: str, state: State, notes: list[str]) -> Config:
    """Return the sizes that all LMF decoders share.

    Args:
        args: options of the published decoder.
        imnet: key in ``args`` of the description of the modulated MLP.
        hypernet: key in ``args`` of the description of the hypernetwork.
        state: weights of the decoder.
        notes: list to which notes are added.

    Raises:
        UserError: if an option or size is not supported.
    """
    plain_mlp(args, hypernet, notes)
    known = ("in_dim", "out_dim", "hidden_dim", "hidden_depth", "mod_scale", "mod_shift", "mod_up_merge")
    require(
        spec_args(args[imnet], imnet, "lmmlp", *known, notes=notes), mod_scale=True, mod_shift=True, mod_up_merge=False
    )
    hidden = widths(state, "imnet.layers")
    width, depth = hidden[0], len(hidden)
    outputs = len([v for k, v in state.items() if re.fullmatch(r"hypernet\.layers\.\d+\.bias", k)][-1])
    if outputs < 2 * width * depth:
        raise UserError(f"the hypernetwork has {outputs} outputs, scales and shifts need {2 * width * depth}")
    return {
        "width": width,
        "depth": depth,
        "hyper": widths(state, "hypernet.layers"),
        "code_channels": outputs - 2 * width * depth,
    }


DECODERS: dict[str, Converter] = {
    "liif": liif,
    "metasr": metasr,
    "lte": lte,
    "lte-fast": lte_plus,
    "ciaosr": ciaosr,
    "sronet": srno,
    "lmliif": lm_liif,
    "lmlte": lm_lte,
    "lmciaosr": lm_ciaosr,
}
