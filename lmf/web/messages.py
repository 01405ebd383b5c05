"""The requests of the page, checked, and the answers to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from lmf.errors import UserError
from lmf.grid import Size
from lmf.inference.stores import Box
from lmf.model import target_size
from lmf.web.downloads import Order
from lmf.web.scene import Frame, displayed
from lmf.web.settings import SCALES, Settings

_LARGEST = 1 << 31


@dataclass(frozen=True)
class View:
    """A request for a frame.

    Attributes:
        part: the part of the page that shows it; a newer frame of the same part supersedes it.
        number: grows with every request of a part.
        method: name of the method.
        scale: scale of the enlargement.
        rows, cols: output pixels; those outside the picture are left out.
        budget: share of the pixels for multi-scale rendering; None renders all.
        held: output pixels that the page has already, which are not sent again without a budget; None if it has none.
        raw: whether to send pixels as they are, otherwise as PNG.
    """

    part: str
    number: int
    method: str
    scale: float
    rows: tuple[int, int]
    cols: tuple[int, int]
    budget: float | None
    held: Box | None
    raw: bool

    @classmethod
    def parse(cls, asked: Mapping[str, Any], settings: Settings) -> View:
        """Check a request.

        Raises:
            UserError: if something is missing, of the wrong kind or out of range.
        """
        budget, held = asked.get("budget"), asked.get("held")
        if not isinstance(held, Mapping | None):
            raise UserError(f"held must be a rectangle, got {held!r:.60}")
        rows, cols = box(asked)
        view = cls(
            part=text(asked, "part", 16),
            number=whole(asked, "number"),
            method=text(asked, "method"),
            scale=scale_of(asked),
            rows=rows,
            cols=cols,
            budget=None if budget is None else number(asked, "budget", 0.01, 1),
            held=None if held is None else box(held),
            raw=asked.get("raw") is True,
        )
        pixels = (view.rows[1] - view.rows[0]) * (view.cols[1] - view.cols[0])
        if pixels > settings.max_view:
            raise UserError(f"a view of {pixels} pixels is larger than the limit of {settings.max_view}")
        return view

    def within(self, lr_size: Size) -> tuple[Size, Box]:
        """Return the (H, W) of the enlargement of a picture of ``lr_size``, and the pixels of it that are shown.

        Raises:
            UserError: if none is.
        """
        size = target_size(lr_size, self.scale, None)
        return size, clipped(self.rows, self.cols, size)


def clipped(rows: tuple[int, int], cols: tuple[int, int], size: Size) -> Box:
    """Return the part of a rectangle within a picture of ``size``.

    Raises:
        UserError: if there is none.
    """
    spans = [(max(0, a), min(n, b)) for (a, b), n in zip((rows, cols), size, strict=True)]
    if any(a >= b for a, b in spans):
        raise UserError("the view lies outside the picture")
    return spans[0], spans[1]


def order(asked: Mapping[str, Any], lr_size: Size, settings: Settings) -> Order:
    """Check a request for a download.

    Raises:
        UserError: if something is missing, of the wrong kind or out of range.
    """
    if asked.get("width") is not None:
        width = whole(asked, "width")
        if not 1 <= width <= settings.max_output:
            raise UserError(f"width must be from 1 to {settings.max_output} pixels, got {width}")
        size = (max(1, round(lr_size[0] * width / lr_size[1])), width)
    else:
        size = target_size(lr_size, scale_of(asked), None)
    view = None
    if asked.get("top") is not None:
        view = clipped(*box(asked), size)
    return Order(size, view, text(asked, "format", 8).lower(), whole(asked, "quality") if "quality" in asked else 95)


def answer(frame: Frame, raw: bool) -> tuple[bytes, dict[str, Any]]:
    """Return the body of the answer to a `View`, and its description.

    The body holds the pixels of the parts, 4 bytes each or as PNG. With multi-scale rendering one byte per LR pixel
    follows, the index of its level.
    """
    contents = [shown.tobytes() if raw else png(shown) for shown in (displayed(pixels) for _, pixels in frame.parts)]
    content = b"".join(contents)
    facts: dict[str, Any] = {
        **placed(frame.view),
        "parts": [{**placed(part), "bytes": len(own)} for (part, _), own in zip(frame.parts, contents, strict=True)],
        "height": frame.size[0],
        "width": frame.size[1],
        "ms": round(1000 * frame.seconds, 2),
        "macs": {stage: round(value) for stage, value in frame.macs.items()},
    }
    if frame.stats is not None:
        levels = frame.stats.level_map
        facts["levels"] = {
            "scales": frame.stats.levels,
            "rendered": frame.stats.rendered,
            "share": round(frame.stats.share, 4),
            "top": frame.corner[0],
            "left": frame.corner[1],
            "rows": levels.shape[0],
            "columns": levels.shape[1],
        }
        content += np.ascontiguousarray(levels.cpu().numpy()).tobytes()
    return content, facts


def placed(box: Box) -> dict[str, int]:
    """Return a rectangle as the page reads it."""
    (top, bottom), (left, right) = box
    return {"top": top, "left": left, "rows": bottom - top, "columns": right - left}


def png(pixels: np.ndarray) -> bytes:
    """Return ``pixels`` (H, W, 4) as a PNG; without alpha if they are opaque."""
    file = BytesIO()
    opaque = bool((pixels[..., 3] == 255).all())
    Image.fromarray(np.ascontiguousarray(pixels[..., :3]) if opaque else pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def text(asked: Mapping[str, Any], key: str, longest: int = 200) -> str:
    """Return the text ``asked[key]``, or raise a `UserError`."""
    value = asked.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise UserError(f"{key} must be a text of at most {longest} characters, got {value!r:.60}")
    return value


def whole(asked: Mapping[str, Any], key: str) -> int:
    """Return the whole number ``asked[key]``, or raise a `UserError`."""
    value = asked.get(key)
    if type(value) is not int or not -_LARGEST < value < _LARGEST:
        raise UserError(f"{key} must be a whole number, got {value!r:.60}")
    return value


def box(asked: Mapping[str, Any]) -> Box:
    """Return the rectangle of the four sides in ``asked``, or raise a `UserError`."""
    return (whole(asked, "top"), whole(asked, "bottom")), (whole(asked, "left"), whole(asked, "right"))


def number(asked: Mapping[str, Any], key: str, low: float, high: float) -> float:
    """Return the number ``asked[key]`` between ``low`` and ``high``, or raise a `UserError`."""
    value = asked.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"{key} must be a number from {low:g} to {high:g}, got {value!r:.60}")
    return float(value)


def scale_of(asked: Mapping[str, Any]) -> float:
    """Return the scale of a request, or raise a `UserError`."""
    return number(asked, "scale", *SCALES)
