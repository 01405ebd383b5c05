"""Random pictures of every kind, and a fixed set of them for measuring."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import PIL

from lmf import io
from lmf.data.degradations import Array
from lmf.data.graphics import drawings, patterns
from lmf.data.graphics.canvas import Canvas, Palette
from lmf.data.settings import DataError
from lmf.data.sources import Filter, Source

Kind = Callable[[np.random.Generator, Canvas, Palette], None]
KINDS: Mapping[str, Kind] = {
    "text": drawings.text,
    "labels": drawings.labels,
    "lines": drawings.lines,
    "curves": drawings.curves,
    "shapes": drawings.shapes,
    "chart": drawings.chart,
    "checkerboard": patterns.checkerboard,
    "grating": patterns.grating,
    "edges": patterns.edges,
    "gradients": patterns.gradients,
    "screen": drawings.screen,
    "mosaic": patterns.mosaic,
}


SAMPLES = 32  # per LR pixel and side, at least
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
GREYS = (
    Palette(WHITE, [BLACK]),
    Palette(BLACK, [WHITE]),
    Palette((232, 232, 232), [(20, 20, 20), (90, 90, 90), (150, 150, 150)]),
    Palette((96, 96, 96), [(160, 160, 160), (128, 128, 128), (64, 64, 64)]),
)
COLOURS = (
    Palette(WHITE, [(0, 0, 255), (255, 0, 0), (0, 128, 0)]),
    Palette(BLACK, [(255, 255, 0), (0, 255, 255), (255, 0, 255)]),
    Palette((20, 40, 90), [(250, 190, 60), (230, 230, 240), (90, 200, 190)]),
    Palette((200, 180, 150), [(120, 150, 110), (170, 120, 130), (150, 140, 190)]),
)  # from strong to weak contrasts


def draw(
    rng: np.random.Generator,
    height: int,
    width: int,
    kind: str | None = None,
    *,
    palette: Palette | None = None,
    samples: int = 4,
    scale: float = 1.0,
) -> Array:
    """Draw a random picture.

    The same state of ``rng`` and the same arguments give the same picture. With another ``scale`` they give the same
    drawing at another size, rasterised anew.

    Args:
        rng: the source of all choices. `Graphics` uses ``np.random.default_rng((2, 7, n))``; seed others otherwise.
        height: height of the picture at scale 1 in pixels, at least 16.
        width: its width, at least 16.
        kind: one of `KINDS`; None draws one.
        palette: colours of the picture; None draws some with `Palette.random`, of which half are grey.
        samples: samples per pixel and side, whose mean is the colour of a pixel.
        scale: size of the picture and of all that is on it, in proportion to ``height`` and ``width``.

    Returns:
        uint8 (round(height * scale), round(width * scale), 3).

    Raises:
        DataError: if ``kind`` is unknown, a size is too small, or a font is missing.
    """
    if kind is None:
        kind = str(rng.choice(list(KINDS)))
    if kind not in KINDS:
        raise DataError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if min(height, width) < 16 or samples < 1:
        raise DataError(f"graphics need 16 x 16 pixels and 1 sample, got {height} x {width} and {samples}")
    if palette is None:
        palette = Palette.random(rng, grey=bool(rng.random() < 0.5))
    canvas = Canvas(height, width, palette.background, samples, scale)
    KINDS[kind](rng, canvas, palette)
    return canvas.pixels()


class Graphics(Source):
    """A fixed set of 24 graphics, two of each kind, of which the first is grey.

    The pictures for scale s are drawn at s times the size, so that their LR pictures show the same at every scale, with
    lines as thin and letters as small as on a screen. They are drawn on first use.

    Args:
        root: folder for the pictures. They lie in a subfolder whose name changes with the drawing code and the
            libraries that draw.
        side: height and width of the LR pictures.
        scale: the scale that the pictures are for.
    """

    faults = True

    def __init__(self, root: str | Path, side: int = 96, scale: float = 4.0) -> None:
        self.root, self.side, self.scale = Path(root).expanduser(), side, scale

    def at(self, scale: float) -> Graphics:
        """Return the same drawings for another scale."""
        return Graphics(self.root, self.side, scale)

    def files(self, usable: Filter = list) -> list[Path]:
        """Return the pictures, which are drawn if they do not exist, in the order of `KINDS`.

        Raises:
            DataError: if a font is missing or the folder cannot be written.
        """
        paths = self._paths()
        for number, path in enumerate(paths):
            if path.is_file():
                continue
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                io.write(path, self._picture(number))
            except (OSError, io.ImageError) as error:
                raise DataError(f"cannot write the graphics: {error}") from error
        return paths

    def _picture(self, number: int) -> Array:
        """Draw picture ``number``, uint8 (H, W, 3)."""
        index, palettes = number // 2, (GREYS, COLOURS)[number % 2]
        kind, palette = list(KINDS)[index], palettes[(index + index // 4) % 4]
        rng, samples = np.random.default_rng((2, 7, number)), max(2, math.ceil(SAMPLES / self.scale))
        return draw(rng, self.side, self.side, kind, palette=palette, samples=samples, scale=self.scale)

    def _paths(self) -> list[Path]:
        """Return the files of all pictures, which may not exist."""
        code = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
        versions = f"{PIL.__version__} {np.__version__} {self.side} {self.scale:g}".encode()
        folder = self.root / hashlib.sha256(b"\0".join([*code, versions])).hexdigest()[:16]
        return [folder / f"{kind}_{tone}.png" for kind in KINDS for tone in ("grey", "colour")]
