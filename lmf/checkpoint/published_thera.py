"""Translates the checkpoints that the authors of Thera published: trees of arrays of JAX."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lmf.checkpoint.published_encoders import ENCODERS
from lmf.checkpoint.translate import Config, State, count, note_unknown, rename
from lmf.errors import UserError

# Their paths, and the names in the published PyTorch encoders and in `lmf.decoders.Thera`.
_NAMES = {
    r"params/encoder/head/layers_0/": "encoder.head.0.",
    r"params/encoder/body/layers_(\d+)/body/layers_([02])/": r"encoder.body.\1.body.\2.",
    r"params/encoder/body/layers_(\d+)/": r"encoder.body.\1.",
    r"params/encoder/RDB_(\d+)/RDB_Conv_(\d+)/Conv_0/": r"encoder.RDBs.\1.convs.\2.conv.0.",
    r"params/encoder/RDB_(\d+)/Conv_0/": r"encoder.RDBs.\1.LFF.",
    r"params/encoder/Conv_0/": "encoder.SFENet1.",
    r"params/encoder/Conv_1/": "encoder.SFENet2.",
    r"params/encoder/Conv_2/": "encoder.GFF.0.",
    r"params/encoder/Conv_3/": "encoder.GFF.1.",
    r"params/refine/Conv_0/": "refine.conv_first.",
    r"params/refine/Conv_1/": "refine.conv_after_body.",
    r"params/refine/Conv_2/": "refine.conv_last.",
    r"params/refine/PatchEmbed_0/LayerNorm_0/": "refine.patch_norm.",
    r"params/refine/LayerNorm_0/": "refine.norm.",
    r"params/refine/RSTB_(\d+)/Conv_0/": r"refine.groups.\1.conv.",
    r"params/out_conv/": "hypernet.",
    r"params/components$": "frequencies",
    r"params/k$": "diffusivity",
}
_BLOCK = r"params/refine/RSTB_(\d+)/BasicLayer_0/SwinTransformerBlock_(\d+)/"
_BLOCK_NAMES = {
    "LayerNorm_0/": "norm1.",
    "LayerNorm_1/": "norm2.",
    "WindowAttention_0/qkv/": "attn.qkv.",
    "WindowAttention_0/proj/": "attn.proj.",
    "WindowAttention_0/relative_position_bias_table$": "attn.bias_table",
    "Mlp_0/Dense_0/": "mlp.0.",
    "Mlp_0/Dense_1/": "mlp.2.",
}
_NAMES |= {_BLOCK + theirs: r"refine.groups.\1.blocks.\2." + ours for theirs, ours in _BLOCK_NAMES.items()}
_CONVNEXT = {"0/": "depthwise.", "1/": "norm.", "2/": "widen.", "4/": "narrow."}
_PROJECTION = {"LayerNorm_0/": "0.", "Conv_0/": "1."}
_LEAVES = {"kernel": "weight", "scale": "weight"}


def describe(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer the description of a model from the names of its weights, as training checkpoints lack it.

    Raises:
        UserError: if these are not the weights of Thera.
    """
    if "params/components" not in state:
        raise UserError(
            f"weights of an unknown model ({', '.join(sorted(state)[:3])}, ...); only Thera's are supported"
        )
    backbone = "rdn" if "params/encoder/RDB_0/Conv_0/kernel" in state else "edsr-baseline"
    tails = {"params/refine/Conv_0/kernel": "pro", "params/refine/layers_0/residual/layers_0/kernel": "plus"}
    size = next((tail for key, tail in tails.items() if key in state), "air")
    return {"name": "thera", "args": {"backbone": backbone, "size": size}}


def convert(args: Config, state: Mapping[str, Tensor]) -> tuple[Config, State, list[str]]:
    """Translate a published model, see `lmf.checkpoint.published.convert`.

    Args:
        args: ``backbone``, ``size`` and ``out_dim``.
        state: weights by path, such as ``params/out_conv/kernel``, in the layout of JAX.

    Raises:
        UserError: if an option is not supported.
        KeyError: if weights are missing.
    """
    notes: list[str] = []
    note_unknown(args, ("backbone", "size", "out_dim"), "decoder", notes)
    backbone, tail = args.get("backbone"), args.get("size")
    if backbone not in ("edsr-baseline", "rdn") or tail not in ("air", "plus", "pro"):
        raise UserError(f"backbone={backbone!r}, size={tail!r}: known are edsr-baseline and rdn; air, plus and pro")
    if args.get("out_dim", 3) != 3:
        raise UserError(f"out_dim={args['out_dim']!r} is not supported, only 3")
    ours = rename({key: transposed(key, value) for key, value in state.items()}, _NAMES | convnext(state))
    ours = {re.sub(r"(kernel|scale)$", lambda match: _LEAVES[match[0]], key): value for key, value in ours.items()}
    # Linear layers of the decoder are stored as 1 x 1 convolutions.
    decoder = {
        key: value.flatten(1) if value.shape[2:] == (1, 1) else value
        for key, value in ours.items()
        if not key.startswith("encoder.")
    }
    for leaf in ("weight", "bias"):
        decoder[f"hypernet.{leaf}"] = by_colour(decoder[f"hypernet.{leaf}"])
    decoder["diffusivity"] = decoder["diffusivity"].reshape(())
    theirs = {key.removeprefix("encoder."): value for key, value in ours.items() if key.startswith("encoder.")}
    encoder_config, encoder_state = ENCODERS[backbone]({}, theirs, notes)
    config = {
        "encoder": encoder_config,
        "decoder": {
            "_target_": "lmf.decoders.Thera",
            "in_channels": encoder_config["out_channels"],
            "tail": tail,
            "waves": decoder["frequencies"].shape[1],
        },
    }
    weights = {f"encoder.{k}": v for k, v in encoder_state.items()} | {f"decoder.{k}": v for k, v in decoder.items()}
    return config, weights, notes


def convnext(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the names of the ConvNeXt tail, whose blocks and projections are numbered in one row."""
    names: dict[str, str] = {}
    stage = block = 0
    for j in range(count(state, r"params/refine/layers_(\d+)/")):
        theirs = f"params/refine/layers_{j}/"
        if f"{theirs}Conv_0/kernel" in state:
            names |= {theirs + k: f"refine.projections.{stage}.{v}" for k, v in _PROJECTION.items()}
            stage, block = stage + 1, 0
        else:
            ours = f"refine.stages.{stage}.{block}."
            names |= {f"{theirs}residual/layers_{k}": ours + v for k, v in _CONVNEXT.items()}
            block += 1
    return names


def transposed(key: str, value: Tensor) -> Tensor:
    """Convert a kernel (kh, kw, in, out) or (in, out) to (out, in, kh, kw) or (out, in); return others unchanged."""
    if not key.endswith("/kernel"):
        return value
    return value.permute(3, 2, 0, 1).contiguous() if value.dim() == 4 else value.T.contiguous()


def by_colour(value: Tensor) -> Tensor:
    """Reorder the outputs (4 N, ...) of the hypernetwork, whose amplitudes are stored wave by wave."""
    amplitudes, phases = value.unflatten(0, (4, -1)).split((3, 1))
    waves = amplitudes.flatten(0, 1).unflatten(0, (-1, 3)).transpose(0, 1)  # (3, N, ...)
    return torch.cat([waves, phases]).flatten(0, 1)
