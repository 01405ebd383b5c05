"""Random patterns: checkerboards, gratings, edges, gradients and mosaics."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from lmf.data.degradations import Array
from lmf.data.graphics.canvas import Canvas, Palette

Rng = np.random.Generator


def checkerboard(rng: Rng, canvas: Canvas, palette: Palette) -> None:
    """Draw a checkerboard with cells of 1 to 30 units, level or turned, on or off the pixel grid."""
    cell = float(np.exp(rng.uniform(0, np.log(30))))
    degrees, phase = (0.0 if rng.random() < 0.5 else rng.uniform(0, 90)), rng.random(2) * cell
    if degrees == 0 and rng.random() < 0.6:
        cell, phase = float(round(cell)), np.zeros(2)
    y, x = canvas.sample_grid()
    along, across = turn(y, x, degrees)
    odd = (np.floor((along + phase[0]) / cell) + np.floor((across + phase[1]) / cell)).astype(np.int32) & 1
    canvas.blend(odd.astype(bool), (palette.background, palette.ink(rng)))


def grating(rng: Rng, canvas: Canvas, palette: Palette) -> None:
    """Draw stripes, waves, a star of sectors or rings that become finer outwards, with periods from 2 units."""
    extent, ink = np.array([canvas.width, canvas.height]), palette.ink(rng)
    far = float(np.hypot(*extent))
    degrees = float(rng.choice([0, 90, rng.uniform(0, 180)]))
    period, phase = float(np.exp(rng.uniform(np.log(2), np.log(40)))), rng.uniform(0, 1)
    style = int(rng.integers(4))
    if style == 0:  # the mean of a wave over a pixel is known
        along, _ = turn(*canvas.pixel_grid(), degrees)
        cycles = 1 / (period * canvas.scale)  # per pixel
        damping = np.sinc(cos(degrees) * cycles) * np.sinc(sin(degrees) * cycles)
        wave = 0.5 + 0.5 * damping * np.cos(2 * np.pi * (along / period + phase))
        first, second = np.array([palette.background, ink], np.float32)
        canvas.show(np.rint(first + wave[..., None] * (second - first)).astype(np.uint8))
    elif style == 1:
        along, _ = turn(*canvas.sample_grid(), degrees)
        canvas.blend((along / period + phase) % 1 < rng.uniform(0.2, 0.8), (palette.background, ink))
    elif style == 2:
        sectors = int(rng.integers(6, 40))
        ends = (np.arange(2 * sectors + 1) + phase) * 180 / sectors
        centre = rng.uniform(0.2, 0.8, 2) * extent
        for start, end in zip(ends[::2], ends[1::2], strict=False):
            canvas.sector(centre, far, start, end, ink)
    else:
        y, x = canvas.sample_grid()
        left, top = rng.random(2) * extent
        area = 2 * rng.uniform(2, 6) * far  # of a ring, divided by pi
        canvas.blend((((y - top) ** 2 + (x - left) ** 2) / area + phase) % 1 < 0.5, (palette.background, ink))


def edges(rng: Rng, canvas: Canvas, palette: Palette) -> None:
    """Draw straight edges through the whole picture in all directions, between neighbouring levels of contrast."""
    height, width = canvas.height, canvas.width
    extent, far = np.array([width, height]), 2.0 * (height + width)
    degrees, fixed = rng.uniform(0, 360), rng.random() < 0.5
    count = int(rng.integers(1, 10))
    for number in range(count):
        angle = degrees if fixed else rng.uniform(0, 360)
        along, across = np.array([cos(angle), sin(angle)]), np.array([-sin(angle), cos(angle)])
        place = extent / 2 + across * far / 4 * ((number + rng.random()) / count - 0.5)
        share = rng.random() if number else 1.0
        ink = np.rint(share * np.array(palette.ink(rng)) + (1 - share) * np.array(palette.background)).astype(int)
        corners = np.stack([place - far * along, place + far * along, place + far * (along + across)])
        red, green, blue = ink.tolist()
        canvas.polygon(np.concatenate([corners, [place + far * (across - along)]]), (red, green, blue))


def gradients(rng: Rng, canvas: Canvas, palette: Palette) -> None:
    """Draw smooth gradients in rectangles: linear in all directions or radial, through two to four colours."""
    y, x = canvas.pixel_grid()
    tops, lefts = (
        np.unique([0, *rng.integers(n, size=int(rng.integers(3))), n]) for n in (canvas.height, canvas.width)
    )
    for top, bottom in pairwise(tops.tolist()):
        for left, right in pairwise(lefts.tolist()):
            (row, end_row), (col, end_col) = (
                (round(start * canvas.scale), round(stop * canvas.scale))
                for start, stop in ((top, bottom), (left, right))
            )
            degrees, centre = rng.uniform(0, 360), rng.uniform((top, left), (bottom, right))
            place, _ = turn(y[row:end_row], x[:, col:end_col], degrees)
            corners, _ = turn(np.array([[top], [bottom]]), np.array([[left, right]]), degrees)
            first, last = corners.min(), corners.max()
            if rng.random() < 0.3:
                place = np.hypot(y[row:end_row] - centre[0], x[:, col:end_col] - centre[1])
                first, last = 0.0, float(np.hypot(bottom - top, right - left))
            colours = np.array([palette.background, *(palette.ink(rng) for _ in range(int(rng.integers(1, 4))))])
            stops = np.sort(rng.uniform(first, last, len(colours)))
            values = np.stack([np.interp(place, stops, colours[:, channel]) for channel in range(3)], axis=-1)
            canvas.show(np.rint(values).astype(np.uint8), row, col)


def mosaic(rng: Rng, canvas: Canvas, palette: Palette) -> None:
    """Draw cells of 1 to 30 units in random colours of the palette, as in codes and maps, with or without a grid."""
    height, width = canvas.height, canvas.width
    cell = np.exp(rng.uniform(0, np.log(30), 2))
    if rng.random() < 0.5:  # squares on the pixel grid
        cell = np.full(2, np.rint(cell[0]))
    rows, columns = (int(n / side) + 2 for n, side in zip((height, width), cell, strict=True))
    colours = np.array([palette.background, *palette.inks], np.uint8)
    numbers = rng.integers(len(colours), size=(rows, columns))
    y, x = canvas.sample_grid()
    cells = colours[numbers[(y[:, 0] / cell[0]).astype(int)][:, (x[0] / cell[1]).astype(int)]]
    canvas.show_samples(cells)
    if cell.min() > 6 and rng.random() < 0.4:
        for number in range(rows):
            canvas.rectangle(0, number * cell[0], width, number * cell[0] + 1, palette.inks[0])
        for number in range(columns):
            canvas.rectangle(number * cell[1], 0, number * cell[1] + 1, height, palette.inks[0])


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
