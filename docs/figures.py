"""Draws the pictures of the documentation: python docs/figures.py [FOLDER]

The photographs are scikit-image's. The model is `lm_liif_edsr`.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from skimage import data
from torch import Tensor

import lmf
from lmf import grid
from lmf.benchmark.cost import count
from lmf.data.degradations import resize_pil
from lmf.decoders import LIIF, LMLIIF, LMLTE, LTE
from lmf.encoders import EDSR
from lmf.grid import Grid
from lmf.model import SRModel
from lmf.renderers import CMSR, Tables
from lmf.training.callbacks.level_map import panel
from lmf.weights import bundled

MODEL = "lm_liif_edsr"
GAP, LINE = 6, 16  # pixels between pictures, and of a line of text


def main(folder: str = "docs/images") -> None:
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    model = lmf.load(MODEL)
    with torch.inference_mode():
        save(comparison(model), target / "comparison.webp")
        save(intensity(model), target / "intensity.webp")
        save(levels(model), target / "levels.webp")
    save(ensemble(), target / "ensemble.webp")
    save(costs(), target / "costs.webp")


def save(picture: Image.Image, path: Path) -> None:
    picture.save(path, format="WEBP", quality=88, method=6)
    print(f"{path}: {picture.width}x{picture.height}, {path.stat().st_size / 1024:.0f} KiB")


def comparison(model: SRModel, scale: int = 4) -> Image.Image:
    """A crop of a reduced photograph, enlarged in two ways, beside the original."""
    original = Image.fromarray(data.chelsea()).crop((0, 0, 448, 300))
    lr = original.resize((original.width // scale, original.height // scale), Image.Resampling.BICUBIC)
    views = {
        f"LR, {lr.width}x{lr.height}": lr.resize(original.size, Image.Resampling.NEAREST),
        f"bicubic x{scale}": lr.resize(original.size, Image.Resampling.BICUBIC),
        f"LM-LIIF x{scale}": model.upscale(lr, scale=scale),
        "original": original,
    }
    return beside({title: view.crop((120, 30, 340, 250)) for title, view in views.items()})


def intensity(model: SRModel) -> Image.Image:
    """A photograph and the modulation intensity of its latents."""
    lr = network_input(data.astronaut(), 256)
    target = Grid.of(2048, 2048)
    latent = model.latent(lr, model.decoder.cell(target, (256, 256), 1, lr.device))
    strength = latent.intensity()[0]
    normed = (strength / strength.quantile(0.99)).clamp(0, 1)
    colours = torch.from_numpy(matplotlib.colormaps["magma"](normed.numpy())[..., :3]).permute(2, 0, 1)
    size = (384, 384)
    return beside(
        {
            "input": picture(lr[0] / 2 + 0.5).resize(size, Image.Resampling.BICUBIC),
            "modulation intensity, bright = high": picture(colours).resize(size, Image.Resampling.NEAREST),
        }
    )


def levels(model: SRModel, side: int = 64, scale: int = 8) -> Image.Image:
    """What CMSR renders at which level, and what that costs in precision."""
    lr = network_input(data.astronaut()[:384, 60:444], side)
    target = Grid.of(side * scale, side * scale)
    cell = model.decoder.cell(target, (side, side), 1, lr.device)
    latent = model.latent(lr, cell)
    dense = model.renderer(model.decoder, latent, target, cell)[0]
    renderer = CMSR(Tables.of(bundled()[MODEL].with_suffix(".cmsr.yaml")), mse_threshold=2e-5, dense="never")
    coarse, (stats,) = renderer.render(model.decoder, latent, target, cell)
    return panel(coarse[0] / 2 + 0.5, dense / 2 + 0.5, stats)


def ensemble() -> Image.Image:
    """A query, the four latents around it and their weights, on a grid of 3 x 4 latents."""
    size, query = (3, 4), torch.tensor([[[-0.16, 0.13]]])
    index, _, weight = grid.ensemble(query, size)  # (4, 1, 1) each
    near = grid.latent_centre(index[:, 0, 0], size)  # (4, 2)
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for n, draw in zip(size, (axes.axhline, axes.axvline), strict=True):
        for i in range(n + 1):
            draw(-1 + 2 * i / n, color="0.8", linewidth=1)
    centres = grid.latent_centre(torch.arange(size[0] * size[1]), size)
    axes.plot(centres[:, 1], centres[:, 0], "o", color="0.6", label="latents, one per LR pixel")
    for (y, x), share in zip(near.tolist(), weight[:, 0, 0].tolist(), strict=True):
        axes.plot([x, query[0, 0, 1]], [y, query[0, 0, 0]], color="C0", linewidth=1)
        axes.plot(x, y, "o", color="C0")
        axes.annotate(f"{share:.2f}", (x, y), xytext=(6, 6), textcoords="offset points", color="C0")
    axes.plot(query[..., 1].item(), query[..., 0].item(), "*", color="C3", markersize=13, label="query")
    axes.set(xlim=(-1.02, 1.02), ylim=(1.02, -1.02), xlabel="x", ylabel="y", aspect=size[0] / size[1])
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize="small")
    return drawn(figure)


def costs(lr: tuple[int, int] = (90, 160)) -> Image.Image:
    """Multiply-adds of encoder and decoder over the scale."""
    scales = [2, 3, 4, 6, 8, 12]
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axes = figure.subplots()
    styles = {LIIF: "C1-o", LTE: "C3-o", LMLIIF: "C0-o", LMLTE: "C2-o"}
    names = {LIIF: "LIIF", LTE: "LTE", LMLIIF: "LM-LIIF", LMLTE: "LM-LTE"}
    for kind, style in styles.items():
        model = SRModel(EDSR(), kind())
        axes.plot(scales, [count(model, lr, scale=s).total_macs / 1e9 for s in scales], style, label=names[kind])
    axes.set(yscale="log", xlabel="scale", ylabel=f"multiply-adds of a {lr[1]}x{lr[0]} picture, 10⁹", xticks=scales)
    axes.grid(alpha=0.3)
    axes.legend()
    return drawn(figure)


def network_input(photo: object, side: int) -> Tensor:
    """(1, 3, side, side) in [-1, 1]."""
    return torch.tensor(resize_pil(photo, (side, side))).permute(2, 0, 1)[None] / 127.5 - 1


def picture(rgb: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1]."""
    return Image.fromarray((rgb.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def beside(views: dict[str, Image.Image]) -> Image.Image:
    """Pictures of one size in a row, each below its title."""
    w, h = next(iter(views.values())).size
    out = Image.new("RGB", (len(views) * (w + GAP) - GAP, h + LINE), "white")
    pen = ImageDraw.Draw(out)
    for i, (title, view) in enumerate(views.items()):
        out.paste(view, (i * (w + GAP), LINE))
        pen.text((i * (w + GAP), 2), title, fill="black")
    return out


def drawn(figure: Figure) -> Image.Image:
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return Image.open(file).convert("RGB")


if __name__ == "__main__":
    main(*sys.argv[1:])
