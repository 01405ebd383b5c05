"""Random drawings: text, line art, shapes, charts and screens."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from lmf.data.degradations import Array
from lmf.data.graphics.canvas import FONTS, Canvas, Palette, words
from lmf.data.graphics.patterns import Rng, cos, sin


def text(rng: Rng, canvas: Canvas, palette: Palette) -> None:
    """Draw a block of text in one font and size, 6 to 60 units, level or turned by any angle."""
    height, width = canvas.height, canvas.width
    size, font = text_size(rng), rng.choice([*FONTS, "default"])
    degrees = 0.0 if rng.random() < 0.6 else float(rng.choice([90, 180, 270, rng.normal(0, 8), rng.uniform(0, 360)]))
    spacing, many = rng.uniform(1.1, 1.6) * size, rng.random() < 0.5
    diagonal = float(np.hypot(height, width)) if degrees else float(height)
    rows = min(int(diagonal / spacing) + 1, 1 + height * width // (90 * max(1, int(width / size))))
    only = palette.ink(rng)
    for row in range(rows):
        line = words(rng, int(1.6 * width / size * rng.uniform(0.5, 1.1)) + 3)
        colour = palette.ink(rng) if many else only
        if degrees == 0:
            canvas.text(rng.uniform(0, 1), row * spacing + 2, line, font, size, colour)
            continue
        offset = (row + 0.5) * spacing - rows * spacing / 2
        centre = np.array([width / 2, height / 2]) + offset * np.array([sin(degrees), cos(degrees)])
        canvas.turned_text(centre, line, font, size, colour, degrees)


def labels(rng: Rng, canvas: Canvas, palette: Palette) -> None:
    """Draw words in any fonts, sizes and directions, some on plates of colour."""
    height, width = canvas.height, canvas.width
    for _ in range(int(rng.integers(3, 3 + max(1, height * width // 4000)))):
        centre, size = rng.random(2) * (width, height), text_size(rng)
        colour = palette.ink(rng)
        if rng.random() < 0.2:
            (x, y), half = centre.tolist(), size * rng.uniform(1, 4)
            canvas.rectangle(x - half, y - 0.8 * size, x + half, y + 0.8 * size, colour)
            colour = palette.background
        degrees = float(rng.choice([0, 0, 90, rng.uniform(0, 360)]))
        font = str(rng.choice([*FONTS, "default"]))
        canvas.turned_text(centre, words(rng, int(rng.integers(1, 10))), font, size, colour, degrees)


def lines(rng: Rng, canvas: Canvas, palette: Palette) -> None:
    """Draw straight lines of 0.5 to 4 units in all directions: crossing, in fans, or in families of parallels."""
    extent = np.array([canvas.width, canvas.height])
    style, count = int(rng.integers(3)), int(rng.integers(5, 40))
    thickness = line_width(rng)
    angle, gap, hub = rng.uniform(0, 360), rng.uniform(2, 20), rng.random(2) * extent
    for number in range(count):
        colour = palette.ink(rng)
        if style == 0:
            canvas.line(rng.random((2, 2)) * extent, colour, line_width(rng))
            continue
        turn = angle + 360 * number / count if style == 1 else angle
        along = np.array([cos(turn), sin(turn)])
        across = np.array([-along[1], along[0]]) * gap * (number - count / 2)
        start = hub if style == 1 else hub + across - 2 * max(extent) * along
        canvas.line(np.stack([start, start + 4 * max(extent) * along]), colour, thickness)


def curves(rng: Rng, canvas: Canvas, palette: Palette) -> None:
    """Draw circles, ellipses and cubic curves of 0.5 to 4 units, with some discs."""
    extent = np.array([canvas.width, canvas.height])
    time = np.linspace(0, 1, 40)[:, None]
    weights = np.concatenate([(1 - time) ** 3, 3 * time * (1 - time) ** 2, 3 * time**2 * (1 - time), time**3], axis=1)
    for _ in range(int(rng.integers(4, 24))):
        colour, style = palette.ink(rng), rng.random()
        if style < 0.5:
            canvas.line(weights @ (rng.uniform(-0.2, 1.2, (4, 2)) * extent), colour, line_width(rng))
        else:
            radii = np.exp(rng.uniform(np.log(2), np.log(max(extent) / 2))) * np.array(
                [1, rng.choice([1, rng.random()])]
            )
            canvas.ellipse(rng.random(2) * extent, radii, colour, None if style > 0.9 else line_width(rng))


def shapes(rng: Rng, canvas: Canvas, palette: Palette) -> None:
    """Draw flat polygons, stars, rectangles and discs, some with outlines."""
    height, width = canvas.height, canvas.width
    for _ in range(int(rng.integers(4, 30))):
        centre = rng.random(2) * (width, height)
        size = float(np.exp(rng.uniform(np.log(3), np.log(max(height, width) / 2))))
        colour, style = palette.ink(rng), rng.random()
        if style < 0.2:
            (left, top), (right, bottom) = centre - size / 2, centre + size * rng.random(2)
            canvas.rectangle(left, top, right, bottom, colour)
        elif style < 0.4:
            canvas.ellipse(centre, np.full(2, size / 2), colour)
        else:
            corners = star(int(rng.integers(3, 9)), rng.uniform(0.3, 1), rng.uniform(0, 360)) * size / 2 + centre
            if style > 0.8:
                corners = corners + rng.normal(0, size / 6, corners.shape)
            canvas.polygon(corners, colour)
            if rng.random() < 0.3:
                canvas.line(np.concatenate([corners, corners[:1]]), palette.ink(rng), line_width(rng))


def chart(rng: Rng, canvas: Canvas, palette: Palette) -> None:
    """Draw a chart of bars, lines, points or sectors with axes, a grid and labels."""
    height, width = canvas.height, canvas.width
    size, font, first = rng.uniform(7, 14), str(rng.choice(FONTS[:5])), palette.inks[0]
    left, top, right, bottom = 3 * size, 2 * size, width - size, height - 2.5 * size
    style, count = int(rng.integers(4)), int(rng.integers(3, 12))
    canvas.text(left, size * 0.4, words(rng, 14), font, size * 1.2, first)
    if style == 3:
        ends = np.concatenate([[0], np.cumsum(rng.dirichlet(np.ones(count)))]) * 360
        centre, radius = np.array([(left + right) / 2, (top + bottom) / 2]), min(right - left, bottom - top) / 2
        for start, end in pairwise(ends):
            canvas.sector(centre, max(radius, 4.0), start, end, palette.ink(rng))
        return
    for level in np.linspace(bottom, top, int(rng.integers(3, 8))):
        canvas.rectangle(left, round(level), right, round(level) + 1, palette.ink(rng))
        canvas.text(size * 0.3, level - size / 2, f"{rng.uniform(0, 99):.1f}", font, size, first)
    canvas.rectangle(round(left), top, round(left) + 1, bottom, first)
    canvas.rectangle(left, round(bottom), right, round(bottom) + 1, first)
    places = np.linspace(left, right, count + 1)
    for place in places[:-1]:
        canvas.text(place, bottom + size * 0.5, words(rng, 2), font, size, first)
    for _ in range(int(rng.integers(1, 4))):
        values = bottom - (bottom - top) * rng.random(count + 1)
        colour, thickness = palette.ink(rng), line_width(rng)
        if style == 0:
            share = rng.uniform(0.3, 1)
            for start, end, value in zip(places[:-1], places[1:], values[:-1], strict=True):
                canvas.rectangle(start, value, start + share * (end - start), bottom, palette.ink(rng))
            break
        points = np.stack([places, values], axis=1)
        if style == 1:
            canvas.line(points, colour, thickness)
        for point in points:
            canvas.ellipse(point, np.full(2, thickness + 1), colour)


def screen(rng: Rng, canvas: Canvas, palette: Palette) -> None:
    """Draw a screen of windows with bars, buttons, fields, symbols, text and frames on the pixel grid."""
    height, width = canvas.height, canvas.width
    font, size, first = str(rng.choice([*FONTS[:5], "default"])), rng.uniform(7, 16), palette.inks[0]
    row = int(size * 2)

    def frame(left: int, top: int, right: int, bottom: int) -> None:
        """Draw a frame of one pixel around a window."""
        for box in ((left, top, right, top + 1), (left, bottom - 1, right, bottom)):
            canvas.rectangle(*box, first)
        for box in ((left, top, left + 1, bottom), (right - 1, top, right, bottom)):
            canvas.rectangle(*box, first)

    for _ in range(int(rng.integers(1, 4))):
        left, top = int(rng.integers(-width // 8, width // 2)), int(rng.integers(-height // 8, height // 2))
        right, bottom = left + int(rng.integers(width // 2, width)), top + int(rng.integers(height // 2, height))
        canvas.rectangle(left, top, right, bottom, palette.background)
        canvas.rectangle(left, top, right, top + row, palette.ink(rng))
        canvas.text(left + 4, top + size / 2, words(rng, 12), font, size, palette.background)
        frame(left, top, right, bottom)
        for y in range(top + row + 4, min(bottom, height) - row, row + int(rng.integers(2, 8))):
            style, colour, indent = rng.random(), palette.ink(rng), left + int(rng.integers(4, 12))
            end = indent + int(rng.integers(20, max(21, right - indent - 4)))
            if style < 0.3:
                canvas.rectangle(indent, y, min(end, right - 2), y + row - 2, colour)
                canvas.text(indent + 6, y + size / 3, words(rng, 6), font, size, palette.background)
            elif style < 0.5:
                frame(indent, y, indent + row - 4, y + row - 4)
                canvas.ellipse(np.array([indent, y]) + row / 2 - 2, np.full(2, row / 4), colour)
                canvas.text(indent + row, y + size / 4, words(rng, 12), font, size, first)
            elif style < 0.65:
                frame(indent, y, min(end, right - 2), y + row - 2)
                canvas.text(indent + 4, y + size / 3, words(rng, 5), font, size, first)
            elif style < 0.75:
                canvas.polygon(
                    star(int(rng.integers(3, 7)), 0.5, 90) * row / 2 + (indent + row / 2, y + row / 2), colour
                )
            else:
                canvas.text(indent, y + size / 4, words(rng, int((right - indent) / size)), font, size, first)


def star(points: int, inner: float, degrees: float) -> Array:
    """Return the corners of a star with radius 1 outside and ``inner`` inside, (2 points, 2) as x, y."""
    angles = np.radians(degrees + 180 * np.arange(2 * points) / points)
    radii = np.where(np.arange(2 * points) % 2, inner, 1.0)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def text_size(rng: Rng) -> float:
    """Draw the size of a font, 6 to 60 units, small ones more often."""
    return float(np.exp(rng.uniform(np.log(6), np.log(60))))


def line_width(rng: Rng) -> float:
    """Draw the width of a line, 0.5 to 4 units."""
    return float(np.exp(rng.uniform(np.log(0.5), np.log(4))))
