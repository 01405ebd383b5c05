"""Graphics that the program draws: an endless supply for training, and a fixed set for measuring."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import PIL

from lmf import io
from lmf.data import canvas, drawings
from lmf.data.canvas import Palette
from lmf.data.degradations import Array
from lmf.data.drawings import KINDS
from lmf.data.settings import DataError
from lmf.data.sources import Filter, Source


def draw(
    rng: np.random.Generator,
    height: int,
    width: int,
    kind: str | None = None,
    *,
    grey: bool | None = None,
    contrast: float = 0.03,
    samples: int = 4,
) -> Array:
    """Draw a random picture.

    The same state of ``rng`` and the same arguments give the same picture.

    Args:
        rng: the source of all choices. The fixed set of `Graphics` uses ``np.random.default_rng((2, n))``.
        height: rows of the picture, at least 16.
        width: columns of the picture, at least 16.
        kind: one of `KINDS`; None draws one.
        grey: whether all colours are grey; None decides at random, one picture in two.
        contrast: least difference between the background and the strongest other colour, above 0 and at most 1.
        samples: samples per pixel and side, whose mean is the colour of a pixel.

    Returns:
        uint8 (H, W, 3).

    Raises:
        DataError: if ``kind`` is unknown, a size is too small, or a font is missing.
    """
    if kind is None:
        kind = str(rng.choice(list(KINDS)))
    if kind not in KINDS:
        raise DataError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if min(height, width) < 16 or samples < 1:
        raise DataError(f"graphics need 16 x 16 pixels and 1 sample, got {height} x {width} and {samples}")
    if grey is None:
        grey = bool(rng.random() < 0.5)
    return KINDS[kind](rng, height, width, Palette.random(rng, grey, contrast), samples)


class Graphics(Source):
    """A fixed set of 24 graphics, two of each kind, of which the first is grey.

    The pictures are drawn on first use with 8 x 8 samples per pixel.

    Args:
        root: folder for the pictures. They lie in a subfolder whose name changes with the drawing code and the
            libraries that draw.
        side: height and width of the pictures.
    """

    def __init__(self, root: str | Path, side: int = 384) -> None:
        self.root, self.side = Path(root).expanduser(), side

    def prepare(self) -> None:
        """Draw the pictures that are missing.

        Raises:
            DataError: if a font is missing or the folder cannot be written.
        """
        for number, path in enumerate(self._paths()):
            if path.is_file():
                continue
            kind, grey = list(KINDS)[number // 2], number % 2 == 0
            rng = np.random.default_rng((2, number))
            picture = draw(rng, self.side, self.side, kind, grey=grey, contrast=0.25, samples=8)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                io.write(path, picture)
            except (OSError, io.ImageError) as error:
                raise DataError(f"cannot write the graphics: {error}") from error

    def files(self, usable: Filter = list) -> list[Path]:
        """Return the pictures, which are drawn if needed, in the order of `KINDS`."""
        self.prepare()
        return self._paths()

    def _paths(self) -> list[Path]:
        """Return the files of all pictures, which may not exist."""
        code = [Path(str(module.__file__)).read_bytes() for module in (canvas, drawings)]
        versions = f"{PIL.__version__} {np.__version__} {self.side}".encode()
        folder = self.root / hashlib.sha256(b"\0".join([*code, Path(__file__).read_bytes(), versions])).hexdigest()[:16]
        return [folder / f"{kind}_{tone}.png" for kind in KINDS for tone in ("grey", "colour")]
