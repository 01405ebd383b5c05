"""The checkpoints that the authors of LIIF, LTE, CiaoSR and LMF published, translated into ours.

They hold ``{name, args}`` and a state dict. This module alone knows their names. What their weights depend
on is kept; what was a defect is mended and noted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

Config = dict[str, Any]
State = dict[str, Tensor]


def convert(spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> tuple[Config, State, list[str]]:
    """Translates a model.

    Args:
        spec: ``{"name": ..., "args": {...}}`` as stored in their checkpoints.
        state_dict: their weights.

    Returns:
        Our config (``encoder`` and ``decoder`` with ``_target_``), our state dict, and one line for
        everything that is not carried over as it was.

    Raises:
        ValueError: an unknown model, an option whose weights mean something else here, or weights missing.
    """
    try:
        name, args = spec["name"], dict(spec.get("args") or {})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a model description needs name and args, got {spec!r}") from error
    encoder = args.get("encoder_spec") or args.get("encoder") or {}
    encoder_name = encoder.get("name")
    if name not in DECODERS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(DECODERS)}")
    if encoder_name not in ENCODERS:
        raise ValueError(f"unknown encoder {encoder_name!r}; known: {', '.join(ENCODERS)}")
    notes: list[str] = []
    theirs = {k.removeprefix("encoder."): v for k, v in state_dict.items() if k.startswith("encoder.")}
    rest = {k: v for k, v in state_dict.items() if not k.startswith("encoder.")}
    try:
        encoder_config, encoder_state = ENCODERS[encoder_name](dict(encoder.get("args") or {}), theirs, notes)
        decoder_config, decoder_state = DECODERS[name](args, rest, notes)
    except KeyError as error:
        raise ValueError(f"{name} with {encoder_name}: no {error.args[0]} in its description or weights") from error
    decoder_config["in_channels"] = encoder_config["out_channels"]
    state = {f"encoder.{k}": v for k, v in encoder_state.items()}
    state |= {f"decoder.{k}": v for k, v in decoder_state.items()}
    return {"encoder": encoder_config, "decoder": decoder_config}, state, notes


def rename(state: Mapping[str, Tensor], rules: Mapping[str, str]) -> State:
    """Applies regular-expression ``rules`` to every key; the first that matches counts."""
    out = {}
    for key, value in state.items():
        for pattern, new in rules.items():
            if re.match(pattern, key):
                key = re.sub(pattern, new, key)
                break
        out[key] = value
    return out


def drop(state: Mapping[str, Tensor], pattern: str) -> State:
    """Without the keys that match all of ``pattern``."""
    return {k: v for k, v in state.items() if not re.fullmatch(pattern, k)}


def require(args: Mapping[str, Any], **expected: Any) -> None:
    """Refuses options whose value is not the ``expected`` one; absent means expected."""
    for key, value in expected.items():
        if args.get(key, value) != value:
            raise ValueError(f"{key}={args[key]!r} is not supported, only {value!r}")


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers the one group of ``pattern`` takes among the keys."""
    return len({m[1] for k in state if (m := re.match(pattern, k))})


def widths(state: Mapping[str, Tensor], prefix: str) -> list[int]:
    """Hidden widths of an MLP whose weights are ``{prefix}.0.weight``, ``{prefix}.2.weight``, ..."""
    weights = [v for k, v in state.items() if re.fullmatch(rf"{re.escape(prefix)}\.\d+\.weight", k)]
    if not weights:
        raise KeyError(f"{prefix}.*.weight")
    return [len(v) for v in weights[:-1]]


def edsr(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    if any(k.startswith(("sub_mean", "add_mean")) for k in state):
        notes.append("encoder: the frozen mean-shift layers, which their forward pass never used, are left out")
    blocks = count(state, r"body\.(\d+)\.body")
    state = rename(
        drop(state, r"(sub|add)_mean\..*"),
        {
            r"head\.0\.": "head.",
            r"body\.(\d+)\.body\.0\.": r"blocks.\1.conv1.",
            r"body\.(\d+)\.body\.2\.": r"blocks.\1.conv2.",
            rf"body\.{blocks}\.": "tail.",
        },
    )
    return {
        "_target_": "lmf.encoders.EDSR",
        "out_channels": len(state["head.weight"]),
        "blocks": blocks,
        "res_scale": float(args.get("res_scale", 1)),
    }, state


def rdn(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    state = rename(
        state,
        {
            r"SFENet([12])\.": r"shallow\1.",
            r"RDBs\.(\d+)\.convs\.(\d+)\.conv\.0\.": r"blocks.\1.convs.\2.",
            r"RDBs\.(\d+)\.LFF\.": r"blocks.\1.fusion.",
            r"GFF\.": "fusion.",
        },
    )
    return {
        "_target_": "lmf.encoders.RDN",
        "out_channels": len(state["shallow1.weight"]),
        "blocks": count(state, r"blocks\.(\d+)\."),
        "layers": count(state, r"blocks\.0\.convs\.(\d+)\."),
        "growth": len(state["blocks.0.convs.0.weight"]),
    }, state


def swinir(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    state = rename(
        drop(state, r".*\.(attn_mask|relative_position_index)"),
        {
            r"patch_embed\.norm\.": "patch_norm.",
            r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.attn\.relative_position_bias_table": (
                r"groups.\1.blocks.\2.attn.bias_table"
            ),
            r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.mlp\.fc1\.": r"groups.\1.blocks.\2.mlp.0.",
            r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.mlp\.fc2\.": r"groups.\1.blocks.\2.mlp.2.",
            r"layers\.(\d+)\.residual_group\.": r"groups.\1.",
            r"layers\.(\d+)\.conv\.": r"groups.\1.conv.",
            r"conv_before_upsample\.0\.": "conv_last.",
        },
    )
    notes.append(
        "encoder: images are padded by reflection to a multiple of the window before the network, and the picture "
        "cropped; the authors pad features inside it and evaluate with flipped copies appended"
    )
    groups = count(state, r"groups\.(\d+)\.")
    positions, embed = len(state["groups.0.blocks.0.attn.bias_table"]), len(state["conv_first.weight"])
    return {
        "_target_": "lmf.encoders.SwinIR",
        "out_channels": len(state["conv_last.weight"]),
        "window": (round(positions**0.5) + 1) // 2,
        "embed": embed,
        "depths": [count(state, rf"groups\.{i}\.blocks\.(\d+)\.") for i in range(groups)],
        "heads": [state[f"groups.{i}.blocks.0.attn.bias_table"].shape[1] for i in range(groups)],
        "mlp_ratio": len(state["groups.0.blocks.0.mlp.0.weight"]) / embed,
    }, state


def liif(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    require(args, local_ensemble=True, feat_unfold=True, cell_decode=True)
    return {"_target_": "lmf.decoders.LIIF", "hidden": widths(state, "imnet.layers")}, state


def metasr(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    return {"_target_": "lmf.decoders.MetaSR", "hidden": widths(state, "imnet.layers")}, state


def lte(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    require(args, local_ensemble=True, cell_decode=True)
    return {
        "_target_": "lmf.decoders.LTE",
        "hidden_dim": len(state["coef.weight"]),
        "hidden": widths(state, "imnet.layers"),
    }, state


def lte_plus(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    state = rename(state, {r"layers\.": "imnet.layers."})
    # Their 1 x 1 convolutions are linear layers.
    state = {k: v.flatten(1) if k.startswith("imnet.") and v.dim() == 4 else v for k, v in state.items()}
    config, state = lte(args, state, notes)
    return config | {"_target_": "lmf.decoders.LTEPlus"}, state


def ciaosr(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    state = cross_scale(args, state, notes)
    return {
        "_target_": "lmf.decoders.CiaoSR",
        **{f"hidden_{x}": widths(state, f"imnet_{x}.layers") for x in "qkv"},
    }, state


def lm_liif(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    require(args, local_ensemble=True, feat_unfold=True, cell_decode=True)
    return {"_target_": "lmf.decoders.LMLIIF", **lmf_options(args, "imnet_spec", state)}, state


def lm_lte(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    require(args, local_ensemble=True, cell_decode=True)
    return {
        "_target_": "lmf.decoders.LMLTE",
        "hidden_dim": len(state["coef.weight"]),
        **lmf_options(args, "imnet_spec", state),
    }, state


def lm_ciaosr(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    state = rename(cross_scale(args, state, notes), {r"(imnet|hypernet)_q\.": r"\1."})
    notes.append("decoder: trains with the bilinear skip it is evaluated with; the authors train without it")
    return {
        "_target_": "lmf.decoders.LMCiaoSR",
        "prenet": widths(state, "prenet_q.layers"),
        "hidden_k": widths(state, "imnet_k.layers"),
        "hidden_v": widths(state, "imnet_v.layers"),
        **lmf_options(args, "imnet_q", state),
    }, state


def cross_scale(args: Config, state: State, notes: list[str]) -> State:
    """What CiaoSR and LM-CiaoSR share."""
    require(args, local_size=2, feat_unfold=True, non_local_attn=True, multi_scale=[2], softmax_scale=1)
    notes.append(
        "decoder: non-local features are also computed where one side of the image is under 48 and the other makes "
        "it more than 48 x 48 in all; the authors' are zero there"
    )
    return drop(state, r"cs_attn\.escape_NaN")


def lmf_options(args: Config, imnet: str, state: State) -> Config:
    """Sizes that every LMF decoder shares; ``args[imnet]`` describes its renderer."""
    require(args[imnet]["args"], mod_scale=True, mod_shift=True, mod_up_merge=False)
    hidden = widths(state, "imnet.layers")
    width, depth = hidden[0], len(hidden)
    outputs = len([v for k, v in state.items() if re.fullmatch(r"hypernet\.layers\.\d+\.bias", k)][-1])
    return {
        "width": width,
        "depth": depth,
        "hyper": widths(state, "hypernet.layers"),
        "code_channels": outputs - 2 * width * depth,
    }


Converter = Callable[[Config, State, list[str]], tuple[Config, State]]
ENCODERS: dict[str, Converter] = {"edsr-baseline": edsr, "edsr": edsr, "rdn": rdn, "swinir": swinir}
DECODERS: dict[str, Converter] = {
    "liif": liif,
    "metasr": metasr,
    "lte": lte,
    "lte-fast": lte_plus,
    "ciaosr": ciaosr,
    "lmliif": lm_liif,
    "lmlte": lm_lte,
    "lmciaosr": lm_ciaosr,
}
