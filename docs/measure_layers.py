"""Prints the largest values in the layers of an LM-LIIF renderer at x4: python docs/measure_layers.py MODEL PICTURE.png

It enlarges the picture, then black text on white, and prints features, modulations, hidden layers and output.
"""

import sys

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import lmf
from lmf import grid, kernels


def text():
    """Black text and a thin line on white."""
    image = Image.new("RGB", (220, 60), "white")
    draw = ImageDraw.Draw(image)
    draw.text((4, 4), "Hamburgefonstiv 0123", fill="black", font=ImageFont.load_default(20))
    draw.line((4, 40, 210, 55), fill="black", width=2)
    return image


@torch.no_grad()
def measure(model, image):
    """Return the largest absolute values: features, scales, shifts, every hidden layer, output."""
    lr = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 127.5 - 1
    size, decoder, network = lr.shape[-2:], model.decoder, model.decoder.imnet
    target = model.target(size, (4 * size[0], 4 * size[1]))
    cell = decoder.cell(target, size, 1, lr.device)
    feat = model.features(lr)
    latent = decoder.latent(feat, lr, cell)
    scales, shifts = latent.modulation.abs().chunk(2, dim=-1)
    layers = [0.0] * network.depth

    def render(modulation, code, rel):
        extra = decoder.extra(grid.relative_cell(cell, latent.size))[:, None].expand(*rel.shape)
        x = torch.cat([code, rel, extra], dim=-1)  # (1, Q, in_dim)
        scale, shift = modulation.unflatten(-1, (2, network.depth, network.width)).unbind(-3)
        for n in range(network.depth):
            x = (network.layers[2 * n](x) * (1 + scale[..., n, :]) + shift[..., n, :]).relu()
            layers[n] = max(layers[n], x.max().item())
        return network.layers[-1](x)

    kernels.blend(latent.modulation, latent.code, target.coord(lr.device).expand(1, -1, 2), render)
    output = model.render(lr, target.size).abs().max()
    return [feat.abs().max().item(), scales.max().item(), shifts.max().item(), *layers, output.item()]


if __name__ == "__main__":
    _, name, picture = sys.argv
    model = lmf.load(name)
    for label, image in (("picture", Image.open(picture)), ("text", text())):
        print(f"{label:8s}", *(f"{value:9.2f}" for value in measure(model, image)))
