"""Translates descriptions and weights of published encoders into those of this package."""

from __future__ import annotations

from lmf.checkpoint.translate import Config, Converter, State, count, drop, note_unknown, rename
from lmf.errors import UserError

# Known options of the published encoders. Sizes are read from the weights. Options of the upsampler and of the frozen
# mean-shift layers are not used.
_EDSR = ("no_upsampling", "res_scale", "n_resblocks", "n_feats", "scale", "rgb_range", "n_colors")
_RDN = ("no_upsampling", "G0", "RDNkSize", "RDNconfig", "scale", "n_colors")
_SWINIR = ("no_upsampling",)


def edsr_baseline(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    """Translate EDSR-baseline, see `Converter`. The default of ``res_scale`` is 1."""
    return edsr({"res_scale": 1.0} | args, state, notes)


def edsr(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    """Translate EDSR, see `Converter`. The default of ``res_scale`` in the published code is 0.1."""
    note_unknown(args, _EDSR, "encoder", notes)
    refuse_upsampler(state, "tail")
    if any(k.startswith(("sub_mean", "add_mean")) for k in state):
        notes.append("encoder: omits the frozen mean-shift layers, which the published forward pass does not use")
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
        "res_scale": float(args.get("res_scale", 0.1)),
    }, state


def rdn(args: Config, state: State, notes: list[str]) -> tuple[Config, State]:
    """Translate RDN, see `Converter`."""
    note_unknown(args, _RDN, "encoder", notes)
    refuse_upsampler(state, "UPNet")
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
    """Translate SwinIR, see `Converter`."""
    note_unknown(args, _SWINIR, "encoder", notes)
    refuse_upsampler(state, "upsample", "conv_last")
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
        "encoder: pads images by reflection to a multiple of the window and crops the output; the authors pad features "
        "inside the network and evaluate with flipped copies appended"
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


def refuse_upsampler(state: State, *names: str) -> None:
    """Check that the encoder has no upsampler, which ``no_upsampling: false`` adds.

    Args:
        state: weights of the encoder.
        names: names of the upsampler's layers.

    Raises:
        UserError: if it has one.
    """
    upsampler = [key for key in state if key.partition(".")[0] in names]
    if upsampler:
        raise UserError(f"the encoder has an upsampler ({upsampler[0]}); only encoders without one are supported")


ENCODERS: dict[str, Converter] = {"edsr-baseline": edsr_baseline, "edsr": edsr, "rdn": rdn, "swinir": swinir}
