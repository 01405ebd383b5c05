"""Random patterns: checkerboards, gratings, edges, gradients and mosaics."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from lmf.data.degradations import Array
from lmf.data.graphics.canvas import Canvas, Palette

Rng = np.random.Generator


def checkerboard(rng: Rng, height: int, width: int, palette: Palette, samples: int) -> Array:
    """Draw a checkerboard with cells of 1 to 30 pixels, level or turned, on or off the pixel grid."""
    canvas = Canvas(height, width, palette.background, samples)
    cell = float(np.exp(rng.uniform(0, np.log(30))))
    degrees, phase = (0.0 if rng.random() < 0.5 else rng.uniform(0, 90)), rng.random(2) * cell
    if degrees == 0 and rng.random() < 0.6:
        cell, phase = float(round(cell)), np.zeros(2)
    y, x = canvas.grid()
    along, across = turn(y, x, degrees)
    odd = (np.floor((along + phase[0]) / cell) + np.floor((across + phase[1]) / cell)).astype(np.int32) & 1
    canvas.blend(odd.astype(bool), (palette.background, palette.ink(rng)))
    return canvas.pixels()


def grating(rng: Rng, height: int, width: int, palette: Palette, samples: int) -> Array:
    """Draw stripes, waves, a star of sectors or rings that become finer outwards, with periods from 2 pixels."""
    ink = palette.ink(rng)
    colours = np.array([palette.background, ink], np.float32)
    degrees = float(rng.choice([0, 90, rng.uniform(0, 180)]))
    period, phase = float(np.exp(rng.uniform(np.log(2), np.log(40)))), rng.uniform(0, 1)
    style = int(rng.integers(4))
    if style == 0:  # the mean of a wave over a pixel is known
        y, x = np.arange(height)[:, None] + 0.5, np.arange(width)[None] + 0.5
        along, _ = turn(y, x, degrees)
        damping = np.sinc(cos(degrees) / period) * np.sinc(sin(degrees) / period)
        wave = 0.5 + 0.5 * damping * np.cos(2 * np.pi * (along / period + phase))
        picture: Array = np.rint(colours[0] + wave[..., None] * (colours[1] - colours[0])).astype(np.uint8)
        return picture
    canvas = Canvas(height, width, palette.background, samples)
    y, x = canvas.grid()
    if style == 1:
        along, _ = turn(y, x, degrees)
        stripes = (along / period + phase) % 1 < rng.uniform(0.2, 0.8)
    elif style == 2:
        sectors = int(rng.integers(6, 40))
        ends = (np.arange(2 * sectors + 1) + phase) * 180 / sectors
        centre = rng.uniform(0.2, 0.8, 2) * (width, height)
        for start, end in zip(ends[::2], ends[1::2], strict=False):
            canvas.sector(centre, float(np.hypot(height, width)), start, end, ink)
        return canvas.pixels()
    else:
        centre = rng.random(2) * (height, width)
        limit = 2 * rng.uniform(2, 6) * float(np.hypot(height, width))  # squared radius per turn
        stripes = (((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / limit + phase) % 1 < 0.5
    canvas.blend(stripes, (palette.background, ink))
    return canvas.pixels()


def edges(rng: Rng, height: int, width: int, palette: Palette, samples: int) -> Array:
    """Draw straight edges through the whole picture in all directions, between neighbouring levels of contrast."""
    canvas = Canvas(height, width, palette.background, samples)
    extent, far = np.array([width, height]), 2.0 * (height + width)
    degrees, fixed = rng.uniform(0, 360), rng.random() < 0.5
    count = int(rng.integers(1, 10))
    for number in range(count):
        angle = degrees if fixed else rng.uniform(0, 360)
        along, across = np.array([cos(angle), sin(angle)]), np.array([-sin(angle), cos(angle)])
        place = extent / 2 + across * far / 4 * ((number + rng.random()) / count - 0.5)
        share = rng.random()
        ink = np.rint(share * np.array(palette.ink(rng)) + (1 - share) * np.array(palette.background)).astype(int)
        corners = np.stack([place - far * along, place + far * along, place + far * (along + across)])
        red, green, blue = ink.tolist()
        canvas.polygon(np.concatenate([corners, [place + far * (across - along)]]), (red, green, blue))
    return canvas.pixels()


def gradients(rng: Rng, height: int, width: int, palette: Palette, samples: int) -> Array:
    """Draw smooth gradients in rectangles: linear in all directions or radial, through two to four colours."""
    picture = np.empty((height, width, 3), np.uint8)
    columns = np.unique(np.concatenate([[0, width], rng.integers(0, width, int(rng.integers(3)))]))
    rows = np.unique(np.concatenate([[0, height], rng.integers(0, height, int(rng.integers(3)))]))
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            y, x = np.arange(bottom - top)[:, None] + 0.5, np.arange(right - left)[None] + 0.5
            place = turn(y, x, rng.uniform(0, 360))[0]
            if rng.random() < 0.3:
                place = np.hypot(y - rng.random() * len(y), x - rng.random() * x.size)
            colours = np.array([palette.background, *(palette.ink(rng) for _ in range(int(rng.integers(1, 4))))])
            stops = np.sort(rng.uniform(place.min(), place.max(), len(colours)))
            values = np.stack([np.interp(place, stops, colours[:, channel]) for channel in range(3)], axis=-1)
            picture[top:bottom, left:right] = np.rint(values)
    return picture


def mosaic(rng: Rng, height: int, width: int, palette: Palette, samples: int) -> Array:
    """Draw cells of 2 to 30 pixels in random colours of the palette, as in codes and maps, with or without a grid."""
    canvas = Canvas(height, width, palette.background, samples)
    cell = np.exp(rng.uniform(np.log(2), np.log(30), 2))
    if rng.random() < 0.5:  # squares on the pixel grid
        cell = np.full(2, np.rint(cell[0]))
    rows, columns = (int(n / side) + 2 for n, side in zip((height, width), cell, strict=True))
    colours = np.array([palette.background, *palette.inks], np.uint8)
    numbers = rng.integers(len(colours), size=(rows, columns))
    y, x = canvas.grid()
    cells = colours[numbers[(y[:, 0] / cell[0]).astype(int)][:, (x[0] / cell[1]).astype(int)]]
    canvas.show(cells)
    if cell.min() > 6 and rng.random() < 0.4:
        for number in range(rows):
            canvas.rectangle(0, number * cell[0], width, number * cell[0] + 1, palette.inks[0])
        for number in range(columns):
            canvas.rectangle(number * cell[1], 0, number * cell[1] + 1, height, palette.inks[0])
    return canvas.pixels()


def turn(y: Array, x: Array, degrees: float) -> tuple[Array, Array]:
    """Return the coordinates along and across a direction."""
    c, s = np.float32(cos(degrees)), np.float32(sin(degrees))
    return c * x + s * y, c * y - s * x


def sin(degrees: float) -> float:
    """Return the sine of an angle in degrees."""
    return float(np.sin(np.radians(degrees)))


def cos(degrees: float) -> float:
    """Return the cosine of an angle in degrees."""
    return float(np.cos(np.radians(degrees)))
