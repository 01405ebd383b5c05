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
        ValueError: an unknown model or an option whose weights mean something else here.
    """
    try:
        name, args = spec["name"], dict(spec.get("args") or {})
    except (KeyError, TypeError) as error:
        raise ValueError(f"a model description needs name and args, got {spec!r}") from error
    encoder = args.get("encoder_spec") or args.get("encoder") or {}
    encoder_name = encoder.get("name")
    if name not in DECODERS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(DECODERS)}")
    if encoder_name not in ENCODERS:
        raise ValueError(f"unknown encoder {encoder_name!r}; known: {', '.join(ENCODERS)}")
    notes: list[str] = []
    theirs = {k.removeprefix("encoder."): v for k, v in state_dict.items() if k.startswith("encoder.")}
    encoder_config, encoder_state = ENCODERS[encoder_name](dict(encoder.get("args") or {}), theirs, notes)
    rest = {k: v for k, v in state_dict.items() if not k.startswith("encoder.")}
    decoder_config, decoder_state = DECODERS[name](args, rest, notes)
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


def require(args: Mapping[str, Any], **expected: Any) -> None:
    """Refuses options whose value is not the ``expected`` one; absent means expected."""
    for key, value in expected.items():
        if args.get(key, value) != value:
            raise ValueError(f"{key}={args[key]!r} is not supported, only {value!r}")


def edsr(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    if any(k.startswith(("sub_mean", "add_mean")) for k in state):
        notes.append("encoder: the frozen mean-shift layers, which their forward pass never used, are left out")
    state = {k: v for k, v in state.items() if not k.startswith(("sub_mean", "add_mean"))}
    blocks = 1 + max(int(k.split(".")[1]) for k in state if re.match(r"body\.\d+\.body", k))
    state = rename(
        state,
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


def liif(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    require(args, local_ensemble=True, feat_unfold=True, cell_decode=True)
    return {"_target_": "lmf.decoders.LIIF", "hidden": list(args["imnet_spec"]["args"]["hidden_list"])}, state


def lm_liif(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    require(args, local_ensemble=True, feat_unfold=True, cell_decode=True)
    return {"_target_": "lmf.decoders.LMLIIF", **lmf_options(args["imnet_spec"], args["hypernet_spec"], state)} | (
        {} if args.get("mod_input", False) else {"code_channels": 0}
    ), state


def lmf_options(imnet: Config, hypernet: Config, state: State) -> Config:
    """Sizes that every LMF decoder shares."""
    require(imnet["args"], mod_scale=True, mod_shift=True, mod_up_merge=False)
    return {
        "width": int(imnet["args"]["hidden_dim"]),
        "depth": int(imnet["args"]["hidden_depth"]),
        "hyper": list(hypernet["args"]["hidden_list"]),
    }


Converter = Callable[[Config, State, list[str]], tuple[Config, State]]
ENCODERS: dict[str, Converter] = {"edsr-baseline": edsr, "edsr": edsr}
DECODERS: dict[str, Converter] = {"liif": liif, "lmliif": lm_liif}
