"""Pictures that show which parts multi-scale rendering rendered at which level."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from lmf.errors import needed
from lmf.renderers import Stats
from lmf.training.callbacks.pictures import to_pil

with needed("train"):
    import matplotlib

GAP, LINE = 8, 14  # pixels between pictures, and of a line of text


def panel(picture: Tensor, dense: Tensor, stats: Stats) -> Image.Image:
    """Show a picture, the levels of its latents and its difference from dense rendering, side by side.

    Args:
        picture: (3, H, W) in [0, 1], rendered at several levels.
        dense: (3, H, W) in [0, 1], rendered densely.
        stats: statistics of ``picture``.
    """
    h, w = picture.shape[-2:]
    colours = level_colours(stats.levels)
    index = F.interpolate(stats.level_map[None, None].float().to(picture.device), (h, w), mode="nearest-exact")[
        0, 0
    ].long()
    levels = torch.tensor(colours, device=picture.device)[index].permute(2, 0, 1)  # (3, H, W)
    grey = picture.mean(dim=0, keepdim=True)
    difference = (picture - dense).abs().amax(dim=0, keepdim=True)
    largest = difference.max().item()
    out = Image.new("RGB", (3 * w + 2 * GAP, h + 2 * LINE), "white")
    pen = ImageDraw.Draw(out)
    titles = (
        f"rendered: {stats.share:.1%} of the pixels",
        "",
        f"difference from dense, white = {255 * largest:.2g} / 255",
    )
    parts = (picture, 0.5 * grey + 0.5 * levels, (difference / max(largest, 1e-9)).expand(3, -1, -1))
    for i, (part, title) in enumerate(zip(parts, titles, strict=True)):
        out.paste(to_pil(part), (i * (w + GAP), LINE))
        pen.text((i * (w + GAP), 1), title, fill="black")
    x = w + GAP
    for level, colour, rendered in zip(stats.levels, colours, stats.rendered, strict=True):
        label = f"x{level:g} {rendered / stats.pixels:.1%}"
        pen.rectangle((x, h + LINE + 3, x + 8, h + LINE + 11), fill=tuple(round(255 * c) for c in colour))
        pen.text((x + 11, h + LINE + 1), label, fill="black")
        x += 20 + int(pen.textlength(label))
    return out


def level_colours(levels: tuple[float, ...]) -> list[tuple[float, float, float]]:
    """Return one RGB colour in [0, 1] per level, from dark (coarse) to bright (fine)."""
    colours = (matplotlib.colormaps["viridis"](i / max(len(levels) - 1, 1)) for i in range(len(levels)))
    return [(red, green, blue) for red, green, blue, _ in colours]
