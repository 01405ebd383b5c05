"""A canvas of flat colours with exact edges, colours with any contrast, and fonts."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lmf.data.degradations import Array
from lmf.data.settings import DataError

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic"),
    *("cmr10", "cmss10", "cmti10", "cmtt10"),
)  # matplotlib contains them
LETTERS = (
    "abcdefghijklmnopqrstuvwxyz" * 4
    + "etaoinsrhld" * 4
    + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    + "0123456789" * 2
    + ".,:;-+=/()%&?!"
)


class Canvas:
    """A picture that is drawn at several samples per pixel and side, and averaged over each pixel.

    Coordinates and lengths are in units, x to the right and y down. With ``scale`` s, a unit is s pixels, so that the
    same drawing can be had at every size.

    Args:
        height: height of the picture in units.
        width: its width.
        background: its first colour.
        samples: samples per pixel and side.
        scale: pixels per unit.
    """

    def __init__(self, height: int, width: int, background: Colour, samples: int = 4, scale: float = 1.0) -> None:
        self.height, self.width, self.samples, self.scale = height, width, samples, scale
        self.rows, self.cols = round(height * scale), round(width * scale)  # of pixels
        self.density = samples * scale  # samples per unit
        self.image = Image.new("RGB", (self.cols * samples, self.rows * samples), background)
        self._draw = ImageDraw.Draw(self.image)

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fill a rectangle."""
        x0, y0, x1, y1 = (round(value * self.density) for value in (left, top, max(left, right), max(top, bottom)))
        self.image.paste(colour, (x0, y0, x1, y1))

    def polygon(self, points: Array, colour: Colour) -> None:
        """Fill a polygon with the corners ``points`` (N, 2) as x, y."""
        self._draw.polygon(self._samples(points), fill=colour)

    def line(self, points: Array, colour: Colour, width: float) -> None:
        """Draw a line through ``points`` (N, 2) as x, y."""
        self._draw.line(self._samples(points), fill=colour, width=max(1, round(width * self.density)), joint="curve")

    def ellipse(self, centre: Array, radii: Array, colour: Colour, width: float | None = None) -> None:
        """Fill an ellipse, or draw its outline if ``width`` is given. ``centre`` and ``radii`` are (2,) as x, y."""
        corners = self._samples(np.stack([centre - radii, centre + radii]))
        if width is None:
            self._draw.ellipse(corners, fill=colour)
        else:
            self._draw.ellipse(corners, outline=colour, width=max(1, round(width * self.density)))

    def sector(self, centre: Array, radius: float, start: float, end: float, colour: Colour) -> None:
        """Fill a sector of a disc between two angles in degrees, clockwise."""
        corners = self._samples(np.stack([centre - radius, centre + radius]))
        self._draw.pieslice(corners, start, end, fill=colour)

    def text(self, x: float, y: float, text: str, font: str, size: float, colour: Colour) -> None:
        """Write ``text`` with its upper left corner at x, y. ``size`` is the height of the font."""
        place = round(x * self.density), round(y * self.density)
        self._draw.text(place, text, font=sized(font, round(size * self.density)), fill=colour)

    def turned_text(self, centre: Array, text: str, font: str, size: float, colour: Colour, degrees: float) -> None:
        """Write ``text`` around ``centre`` (2,) as x, y, turned counterclockwise."""
        scaled = sized(font, round(size * self.density))
        left, top, right, bottom = (round(value) for value in scaled.getbbox(text))
        mask = Image.new("L", (right - left + 2, bottom - top + 2))
        ImageDraw.Draw(mask).text((1 - left, 1 - top), text, font=scaled, fill=255)
        mask = mask.rotate(degrees, Image.Resampling.BILINEAR, expand=True)
        x, y = np.rint(np.asarray(centre) * self.density).astype(int)
        self.image.paste(colour, (int(x) - mask.width // 2, int(y) - mask.height // 2), mask)

    def blend(self, share: Array, colours: tuple[Colour, Colour]) -> None:
        """Show the first colour where ``share`` (one bool per sample) is False and the second elsewhere."""
        self.image.paste(colours[0], (0, 0, *self.image.size))
        self.image.paste(colours[1], (0, 0), Image.fromarray(share))

    def show(self, colours: Array, row: int = 0, col: int = 0) -> None:
        """Show ``colours``, uint8 (rows, cols, 3) with one colour per pixel, at a pixel."""
        picture = Image.fromarray(colours)
        size = picture.width * self.samples, picture.height * self.samples
        self.image.paste(picture.resize(size, Image.Resampling.NEAREST), (col * self.samples, row * self.samples))

    def show_samples(self, colours: Array) -> None:
        """Show ``colours``, uint8 with one colour per sample."""
        self.image.paste(Image.fromarray(colours))

    def sample_grid(self) -> tuple[Array, Array]:
        """Return the positions of all samples, y (n, 1) and x (1, m), float32."""
        return centres(self.image.height, self.density)[:, None], centres(self.image.width, self.density)[None]

    def pixel_grid(self) -> tuple[Array, Array]:
        """Return the centres of all pixels, y (rows, 1) and x (1, cols), float32."""
        return centres(self.rows, self.scale)[:, None], centres(self.cols, self.scale)[None]

    def pixels(self) -> Array:
        """Return the picture, uint8 (H, W, 3)."""
        return np.array(self.image.reduce(self.samples))

    def _samples(self, points: Array) -> list[tuple[float, float]]:
        """Convert coordinates to numbers of samples."""
        return [(x, y) for x, y in np.rint(np.asarray(points) * self.density - 0.5).tolist()]


def centres(count: int, density: float) -> Array:
    """Return the centres of the first ``count`` cells, ``density`` of which make up a unit, float32 (count,)."""
    return (np.arange(count, dtype=np.float32) + 0.5) / np.float32(density)


@dataclass(frozen=True)
class Palette:
    """Colours of a picture.

    Args:
        background: the first colour of the picture.
        inks: colours to draw with. The first has the strongest contrast to the background.
    """

    background: Colour
    inks: Sequence[Colour]

    @classmethod
    def random(cls, rng: np.random.Generator, grey: bool) -> Palette:
        """Draw a palette of greys or colours. A third is on white, a sixth on black; the rest has any contrast."""
        style = rng.random()
        count = 1 if rng.random() < 0.3 else int(rng.integers(2, 7))
        inks = rng.random((count, 1 if grey else 3))
        if not grey and rng.random() < 0.5:  # pure colours
            inks = np.rint(inks)
        if style < 0.5:
            paper = np.full(1, 1.0 if style < 1 / 3 else 0.0)
            if grey or count > 1:
                inks[0] = 1 - paper
            return cls(_colour(paper), [_colour(ink) for ink in inks])
        paper = rng.random(inks.shape[1:])
        contrast = float(np.exp(rng.uniform(np.log(0.03), 0)))
        inks = paper + contrast * (inks - paper)
        inks[0] = paper + contrast * ((paper < 0.5) - paper)  # one ink has the whole contrast
        return cls(_colour(paper), [_colour(ink) for ink in inks])

    def ink(self, rng: np.random.Generator) -> Colour:
        """Draw one of the inks."""
        return self.inks[int(rng.integers(len(self.inks)))]


def _colour(values: Array) -> Colour:
    """Convert 1 or 3 values in [0, 1] to a colour."""
    red, green, blue = np.rint(np.broadcast_to(values, 3).clip(0, 1) * 255).astype(int).tolist()
    return red, green, blue


def words(rng: np.random.Generator, length: int) -> str:
    """Return about ``length`` random characters in words."""
    letters = rng.choice(list(LETTERS), max(1, length))
    spaces = np.cumsum(rng.integers(2, 10, len(letters)))
    letters[spaces[spaces < len(letters) - 1]] = " "
    return "".join(letters)


@lru_cache(maxsize=256)
def sized(name: str, size: int) -> Font:
    """Return a font of `FONTS`, or Pillow's default font for any other name, ``size`` samples high."""
    if name not in FONTS:
        return ImageFont.load_default(size)
    # The basic layout gives the same picture with and without the library Raqm.
    return ImageFont.truetype(font_folder() / f"{name}.ttf", size, layout_engine=ImageFont.Layout.BASIC)


@cache
def font_folder() -> Path:
    """Return matplotlib's folder of fonts.

    Raises:
        DataError: if matplotlib or a font is missing.
    """
    package = importlib.util.find_spec("matplotlib")
    if package is None or package.origin is None:
        raise DataError("graphics need the fonts of matplotlib, which is not installed: pip install 'lmf[train]'")
    folder = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf"
    missing = [name for name in FONTS if not (folder / f"{name}.ttf").is_file()]
    if missing:
        raise DataError(f"the installed matplotlib lacks the fonts {', '.join(missing)} in {folder}; reinstall it")
    return folder
