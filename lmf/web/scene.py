"""A picture as one method shows it: features computed in the background, frames rendered on demand."""

from __future__ import annotations

import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lmf import io
from lmf.errors import UserError, describe
from lmf.grid import Size
from lmf.inference.stores import Box, Cache
from lmf.inference.views import Views, area, without
from lmf.io.colour import from_network, to_network
from lmf.model import target_size
from lmf.renderers import CMSR, Dense, Renderer, Stats
from lmf.web import background
from lmf.web.methods import Method
from lmf.web.settings import Settings
from lmf.web.turns import Superseded, Turns

log = logging.getLogger(__name__)

PREVIEW = 2048  # longest side in pixels
PAUSE = 60.0  # seconds after which the rest of a picture waits until somebody asks for it again


class Picture:
    """A picture that is shown.

    Args:
        name: its name in the page and in names of downloads.
        page: its pixels and metadata.
        user: whose it is, for `Turns`.

    Attributes:
        planes: see `lmf.io.decompose`, in network units.
        size: (h, w).
        preview: a PNG of at most `PREVIEW` pixels a side, 8 bits a channel.
    """

    def __init__(self, name: str, page: io.Picture, user: str) -> None:
        pixels = page.pixels
        planes, self.compose = io.decompose(pixels)
        self.planes = [to_network(plane) for plane in planes]
        self.name, self.user, self.metadata = name, user, page.metadata
        self.size: Size = (pixels.shape[0], pixels.shape[1])
        self.channels, self.dtype = pixels.shape[2:], pixels.dtype
        small = Image.fromarray(displayed(pixels))
        small.thumbnail((PREVIEW, PREVIEW), Image.Resampling.LANCZOS)
        file = BytesIO()
        small.save(file, "PNG", compress_level=1)
        self.preview = file.getvalue()

    @classmethod
    def read(cls, path: Path, name: str, user: str, settings: Settings) -> Picture:
        """Read a picture file.

        Raises:
            UserError: if it is no picture, damaged or too large. The message calls the file ``name``.
        """
        try:
            header = io.read_header(path)
            if math.prod(header.size) > settings.max_pixels:
                limit, (height, width) = settings.max_pixels / 1e6, header.size
                raise UserError(f"{width} x {height} pixels are more than the limit of {limit:g} megapixels")
            return cls(name, next(io.read_pages(path, settings.max_pixels)), user)
        except UserError as error:
            why = str(error).replace(f"cannot read image {path}: ", "").removesuffix(f": {path}")
            raise UserError(f"{name}: {why}") from error


def displayed(pixels: np.ndarray) -> np.ndarray:
    """Convert ``pixels`` (H, W[, C]) of uint8 or uint16 to uint8 (H, W, 4): red, green, blue and alpha."""
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    out = np.full((*pixels.shape[:2], 4), 255, dtype=np.uint8)
    out[..., :3] = pixels[..., : 3 if pixels.shape[2] > 2 else 1]
    if pixels.shape[2] in (2, 4):
        out[..., 3] = pixels[..., -1]
    return out


@dataclass(frozen=True)
class Frame:
    """A rendered view.

    Attributes:
        parts: the rectangles that were rendered, and the pixels of each: of the picture's dtype, (rows, columns[, C]).
        size: (H, W) of the whole enlargement.
        view: the rows and columns that are shown.
        seconds: time to render the parts.
        macs: multiply-adds of rendering them, and of the latents and features that they show.
        stats: of multi-scale rendering; None if all pixels were rendered.
        corner: LR row and column at which the level map begins.
    """

    parts: list[tuple[Box, np.ndarray]]
    size: Size
    view: Box
    seconds: float
    macs: dict[str, float]
    stats: Stats | None = None
    corner: tuple[int, int] = (0, 0)


class Scene:
    """One picture enlarged by one method.

    A thread computes the features, those of the last view first, while the scene exists.

    Args:
        picture: the picture.
        method: the method.
        cache: holds latents, shared by all scenes.
        slow: turns of encoding.

    Attributes:
        error: why the features cannot be computed; None if they can.
        finished: whether there is nothing left to compute in advance.
    """

    def __init__(self, picture: Picture, method: Method, cache: Cache, slow: Turns) -> None:
        model = method.model
        self.picture, self.method, self.slow = picture, method, slow
        self.views = [Views(model, plane.to(model.device), cache) for plane in picture.planes]
        self.error: str | None = None
        self.finished = False
        self._ahead = chain.from_iterable(views.ahead() for views in self.views)
        self._progress = threading.Condition()
        self._focus: list[Box] = []
        self._asked = time.monotonic()
        background.start(encode, weakref.ref(self), self._progress)
        for views in self.views:
            weakref.finalize(self, views.close)

    @property
    def encoded(self) -> float:
        """Share of the picture whose features are computed."""
        total = sum(len(views.tiles) for views in self.views)
        return sum(len(views.encoded) for views in self.views) / total

    def wait(self, size: Size, view: Box, seconds: float, wanted: Callable[[], bool], first: bool = True) -> bool:
        """Wait until ``view`` of the enlargement to ``size`` can be rendered.

        Args:
            size: (H, W) of the enlargement.
            view: rows and columns.
            seconds: the longest time to wait.
            wanted: whether the view still is; asked again after every `wake`.
            first: whether to compute its features before others.

        Returns:
            Whether it can be rendered now.

        Raises:
            Superseded: if it is not ``wanted`` any more.
            UserError: if the features cannot be computed.
        """

        def done() -> bool:
            return self.error is not None or not wanted() or not self.missing(size, view)

        with self._progress:
            self._asked = time.monotonic()
            if first:
                self._focus = [*self.missing(size, view), *self._focus]
            self._progress.notify_all()
            ready = self._progress.wait_for(done, seconds)
        if self.error is not None:
            raise UserError(self.error)
        if not wanted():
            raise Superseded
        return ready

    def missing(self, size: Size, view: Box) -> list[Box]:
        """Return the tiles that must still be encoded before ``view`` can be rendered."""
        return list(dict.fromkeys(tile for views in self.views for tile in views.missing(size, view)))

    def wake(self) -> None:
        """Let everybody in `wait` ask again whether their frame is wanted."""
        with self._progress:
            self._progress.notify_all()

    def next_tile(self) -> Box | None:
        """Return the tile to encode next; None if nothing is to be done now."""
        if self.error is not None or self.encoded == 1:
            return None
        with self._progress:
            missing = [tile for views in self.views for tile in views.tiles if tile not in views.encoded]
            self._focus = [tile for tile in dict.fromkeys(self._focus) if tile in missing]
            if self._focus:
                return self._focus[0]
            return missing[0] if missing and time.monotonic() - self._asked < PAUSE else None

    def encode(self, tile: Box) -> None:
        """Compute the features of ``tile``."""
        with torch.inference_mode():
            for views in self.views:
                if tile not in views.encoded:
                    views.encode(tile)
        self.wake()

    def look_ahead(self) -> None:
        """Compute latents that the next views may need, once all features are there."""
        with torch.inference_mode():
            self.finished = next(self._ahead, self) is self

    def frame(self, scale: float, view: Box, budget: float | None = None, held: Box | None = None) -> Frame:
        """Render a view of the enlargement by ``scale``.

        Args:
            scale: the scale.
            view: rows and columns in output pixels.
            budget: share of the pixels for multi-scale rendering; None renders all.
            held: rows and columns that are known already. With a budget, which is for a whole view, they are rendered
                all the same.

        Raises:
            UserError: if ``budget`` is given but the method has no tables.
        """
        size, stats = target_size(self.picture.size, scale, None), list[Stats]()
        renderer: Renderer = Dense()
        if budget is not None:
            if self.method.tables is None:
                raise UserError(f"{self.method.name} has no tables for multi-scale rendering")
            renderer = CMSR(self.method.tables, budget=budget, dense="never").watched(stats)
        boxes = without(view, held if budget is None else None)
        start = time.perf_counter()
        parts = [(box, self.crop(size, box, renderer)) for box in boxes]
        seconds = time.perf_counter() - start
        shown, rates = sum(area(box) for box in boxes), self.method.rates
        rendered, planes = sum(sum(s.rendered) for s in stats) if stats else shown * len(self.views), len(self.views)
        latents = planes * shown / scale**2
        macs = {"encoder": latents * rates.encoder, "latent": latents * rates.latent, "render": rendered * rates.render}
        corner = self.views[0].region(size, view) if stats else ((0, 0), (0, 0))
        return Frame(parts, size, view, seconds, macs, stats[0] if stats else None, (corner[0][0], corner[1][0]))

    def composed(self, planes: list[Tensor], size: Size, view: Box) -> np.ndarray:
        """Convert rendered ``planes`` of a ``view`` to the kind of the picture."""
        window = io.Window(view[0][0], view[1][0], size)
        pixels: np.ndarray = self.picture.compose([from_network(plane).cpu() for plane in planes], window)
        return pixels

    def crop(self, size: Size, view: Box, renderer: Renderer) -> np.ndarray:
        """Render a ``view`` of the enlargement to ``size``."""
        with torch.inference_mode():
            return self.composed([views.render(size, view, renderer) for views in self.views], size, view)

    def bands(self, size: Size) -> Iterator[np.ndarray]:
        """Yield the whole enlargement to ``size`` in bands of rows; all tiles must be encoded."""
        top, parts = 0, [views.bands(size, Dense()) for views in self.views]
        while True:
            with torch.inference_mode():
                planes = [next(part, None) for part in parts]
                if planes[0] is None:
                    return
                rows = planes[0].shape[2]
                band = self.composed([p for p in planes if p is not None], size, ((top, top + rows), (0, size[1])))
            yield band
            top += rows


def encode(reference: weakref.ref[Scene], progress: threading.Condition) -> None:
    """Encode the tiles of a scene one by one, then look ahead, until all is done or the scene is gone."""
    while not background.ending() and (scene := reference()) is not None:
        tile, complete = scene.next_tile(), scene.encoded == 1
        try:
            if tile is not None or complete:
                with scene.slow.turn(scene.picture.user):
                    scene.look_ahead() if tile is None else scene.encode(tile)
        except Exception as error:
            log.exception("the encoder failed")
            scene.error = f"the encoder failed: {describe(error)}"
            scene.wake()
        if scene.finished or scene.error is not None:
            return
        del scene
        if tile is None and not complete:
            with progress:
                progress.wait(1)
