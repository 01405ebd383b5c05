"""A continuous zoom into a photograph, bicubic beside a model: python notebooks/zoom.py [OUTPUT.webp] [MODEL]

The photograph is scikit-image's astronaut, Eileen Collins (NASA, public domain), reduced to half its size. Every frame
is rendered at its own scale, from x1 to x12, and only where one looks.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from skimage import data

import lmf
from lmf.data.degradations import resize_pil
from lmf.decoders import Bicubic
from lmf.encoders import Identity
from lmf.grid import Grid
from lmf.model import SRModel

CENTRE = (0.205, 0.485)  # of the picture, (y, x): an eye
SIDE = 256  # of a frame, pixels
FRAMES = 48
LARGEST = 12.0


@torch.inference_mode()
def view(model: SRModel, lr: torch.Tensor, feat: torch.Tensor, scale: float) -> Image.Image:
    """The pixels of ``lr`` (1, 3, h, w), whose features are ``feat``, enlarged by ``scale`` around CENTRE."""
    size = (lr.shape[-2], lr.shape[-1])
    height, width = (round(n * scale) for n in size)
    top, left = (min(max(round(c * n - SIDE / 2), 0), n - SIDE) for c, n in zip(CENTRE, (height, width), strict=True))
    window = Grid((height, width), (top, top + SIDE), (left, left + SIDE))
    cell = model.decoder.cell(window, size, 1, lr.device)
    rgb = model.renderer(model.decoder, model.decoder.latent(feat, lr, cell), window, cell)[0]
    return Image.fromarray(((rgb / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def main(output: str = "notebooks/zoom.webp", name: str = "lm_liif_edsr") -> None:
    models = {"bicubic": SRModel(Identity(), Bicubic()).eval(), "lmf": lmf.load(name)}
    lr = torch.tensor(resize_pil(data.astronaut(), (256, 256))).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        features = {label: model.features(lr) for label, model in models.items()}  # the same at every scale
    frames = []
    for n in range(FRAMES):
        scale = LARGEST ** (n / (FRAMES - 1))
        frame = Image.new("RGB", (2 * SIDE + 4, SIDE + 14), "white")
        pen = ImageDraw.Draw(frame)
        for i, (label, model) in enumerate(models.items()):
            frame.paste(view(model, lr, features[label], scale), (i * (SIDE + 4), 14))
            pen.text((i * (SIDE + 4), 1), f"{label}  x{scale:.1f}", fill="black")
        frames.append(frame)
    frames += [frames[-1]] * 12  # a second to look
    path = Path(output)
    temporary = path.with_name(f".{path.name}")
    frames[0].save(temporary, format="WEBP", save_all=True, append_images=frames[1:], duration=80, loop=0, quality=80)
    temporary.replace(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
