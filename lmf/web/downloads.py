"""Files that a page downloads: the view or the whole picture, at any size and in any format that `lmf.io` writes."""

from __future__ import annotations

import math
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmf import io
from lmf.errors import UserError, explain
from lmf.grid import Size
from lmf.inference.stores import Box
from lmf.renderers import Dense
from lmf.web import background
from lmf.web.scene import Picture, Scene
from lmf.web.turns import Superseded, Turns


@dataclass(frozen=True)
class Order:
    """What to write.

    Attributes:
        size: (H, W) of the whole enlargement.
        view: rows and columns to write; None writes all.
        format: suffix of the file without its dot.
        quality: of lossy formats, 1 to 100.
    """

    size: Size
    view: Box | None
    format: str
    quality: int

    @property
    def shape(self) -> Size:
        """(height, width) of the file's picture."""
        return (
            self.size if self.view is None else (self.view[0][1] - self.view[0][0], self.view[1][1] - self.view[1][0])
        )


class Download:
    """A file that a thread writes to a folder which `cancel` removes.

    Args:
        scene: what to write.
        order: how.
        user: whose it is.
        slow: turns of long work.
        max_output: largest number of pixels.

    Attributes:
        name: unguessable; whoever knows it can fetch the file.
        error: what went wrong; None if nothing did.

    Raises:
        UserError: if the format cannot hold the picture, or it would be too large.
    """

    def __init__(self, scene: Scene, order: Order, user: str, slow: Turns, max_output: int) -> None:
        picture = scene.picture
        if math.prod(order.shape) > max_output:
            limit = max_output / 1e6
            raise UserError(
                f"{order.shape[1]} x {order.shape[0]} pixels are more than the limit of {limit:g} megapixels; "
                "choose a smaller size"
            )
        if f".{order.format}" not in io.WRITABLE:
            known = ", ".join(suffix[1:] for suffix in io.WRITABLE)
            raise UserError(f"format must be one of {known}, got {order.format!r:.60}")
        shape = (*order.shape, *picture.channels)
        self.filename = filename(picture, order)
        io.check_writable(self.filename, shape, picture.dtype, order.quality)
        self.name = secrets.token_urlsafe(24)
        self.error: str | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="lmf-download-"))
        self.path = self._folder / f"picture.{order.format}"
        self._share, self._cancelled = 0.0, False
        self._scene = scene
        self._thread = background.start(self._write, scene, order, user, slow)

    @property
    def done(self) -> bool:
        """Whether the file is complete."""
        return self.error is None and not self._thread.is_alive()

    @property
    def progress(self) -> float:
        """Share of the work that is done."""
        return 0.5 * self._scene.encoded + 0.5 * self._share

    def cancel(self) -> None:
        """Stop writing and remove the file."""
        self._cancelled = True
        self._scene.wake()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wanted(self) -> bool:
        return not self._cancelled and not background.ending()

    def _write(self, scene: Scene, order: Order, user: str, slow: Turns) -> None:
        picture = scene.picture
        try:
            view = order.view or ((0, order.size[0]), (0, order.size[1]))
            while not scene.wait(order.size, view, 1, self._wanted, first=order.view is not None):
                pass
            bands = scene.bands(order.size) if order.view is None else iter([scene.crop(order.size, view, Dense())])
            metadata = picture.metadata.enlarged(picture.size, order.size)
            page = io.Page(
                self._taking_turns(bands, order.shape[0], user, slow),
                (*order.shape, *picture.channels),
                picture.dtype,
                metadata,
            )
            io.write_pages(self.path, [page], quality=order.quality)
        except Superseded:
            pass
        except Exception as error:
            if self._cancelled:
                return
            self.error = explain(error) or "the picture could not be written"
            if explain(error) is None:
                raise

    def _taking_turns(self, bands: Iterator[np.ndarray], rows: int, user: str, slow: Turns) -> Iterator[np.ndarray]:
        """Yield ``bands``; each is computed when it is the user's turn."""
        while True:
            with slow.turn(user, self._wanted):
                band = next(bands, None)
            if band is None:
                return
            yield band
            self._share += len(band) / rows


def filename(picture: Picture, order: Order) -> str:
    """Return a name for the file, made of letters and digits of the picture's name and of the size."""
    stem = re.sub(r"[^\w.-]+", "_", Path(picture.name).stem)[:80].strip("._") or "picture"
    height, width = order.shape
    return f"{stem}_{width}x{height}.{order.format}"
