"""The figure of a comparison: a picture with a marked crop, and the crop as every model renders it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lmf.errors import needed
from lmf.figures.style import FONT, PAGE, style

with needed("train"):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

GAP, LINE = 0.05, 0.135  # inches: between pictures, and height of a line of text
SMALL = FONT - 1.5  # points
PER_ROW = 5  # crops side by side; more continue in another row
WHOLE = 0.42  # largest share of the width for the whole picture
MARK = "#FFB000"  # of the crop; visible on dark and bright pictures
SHADES = "magma"


@dataclass(frozen=True)
class Panel:
    """The crop of one model.

    Attributes:
        label: name of the model.
        crop: uint8 (h, w, 3).
        error: float (h, w) in [0, 1]; None for the reference.
        numbers: texts below the crop, each with its rank: 1 is best, 2 second best, 0 neither.
    """

    label: str
    crop: np.ndarray
    error: np.ndarray | None = None
    numbers: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class Layout:
    """Positions in inches from the top left corner.

    Attributes:
        columns, rows: number of crops side by side, and of rows of crops.
        whole: width and height of the whole picture.
        side: width of a crop.
        tall: height of a crop.
    """

    columns: int
    rows: int
    whole: tuple[float, float]
    side: float
    tall: float

    @property
    def block(self) -> float:
        """Height of a row: the crop, its error map and two lines of text."""
        return 2 * self.tall + 2 * GAP + 2 * LINE

    @property
    def height(self) -> float:
        """Height of the figure."""
        return max(self.rows * self.block, self.whole[1] + 2 * LINE) + GAP

    @classmethod
    def of(cls, whole: tuple[int, int], crop: tuple[int, int], panels: int) -> Layout:
        """Fill the width of a page.

        Args:
            whole: (height, width) of the whole picture in pixels.
            crop: (height, width) of a crop in pixels.
            panels: number of crops.
        """
        rows = -(-panels // PER_ROW)
        columns = -(-panels // rows)
        aspect, ratio = whole[1] / whole[0], crop[0] / crop[1]
        # The whole picture is as high as all rows, unless that makes it too wide.
        text = rows * (2 * GAP + 2 * LINE) - 2 * LINE
        side = (PAGE - columns * GAP - aspect * text) / (columns + 2 * rows * ratio * aspect)
        wide = PAGE - columns * (side + GAP)
        if wide > WHOLE * PAGE:
            wide = WHOLE * PAGE
            side = (PAGE - wide) / columns - GAP
        return cls(columns, rows, (wide, wide / aspect), side, side * ratio)

    def corner(self, number: int) -> tuple[float, float]:
        """Return left and top of a crop."""
        row, column = divmod(number, self.columns)
        return self.whole[0] + GAP + column * (self.side + GAP), row * self.block


def draw(
    whole: np.ndarray, box: tuple[int, int, int, int], title: str, panels: Sequence[Panel], unit: str = ""
) -> Figure:
    """Draw the figure.

    Args:
        whole: uint8 (H, W, 3), the reference picture.
        box: (top, left, bottom, right) of the crop.
        title: text below the whole picture.
        panels: crops; the first one is the reference.
        unit: what the numbers are, a second line below the whole picture.
    """
    top, left, bottom, right = box
    layout = Layout.of(whole.shape[:2], (bottom - top, right - left), len(panels))
    with style():
        figure = Figure(figsize=(PAGE, layout.height))
        figure.set_layout_engine("none")  # positions are explicit
        FigureCanvasAgg(figure)  # measures texts
        wide, high = layout.whole
        place_picture(figure, whole, (0, 0, wide, high), box)
        write_line(figure, [(title, 0)], wide / 2, high, wide)
        write_line(figure, [(unit, 0)], wide / 2, high + LINE, wide)
        largest = max([float(panel.error.max()) for panel in panels if panel.error is not None], default=0) or 1
        for number, panel in enumerate(panels):
            x, y = layout.corner(number)
            place_picture(figure, panel.crop, (x, y, layout.side, layout.tall))
            lower = (x, y + layout.tall + GAP / 2, layout.side, layout.tall)
            if panel.error is None:
                place_scale(figure, lower, largest)
            else:
                axes = place_axes(figure, lower)
                axes.imshow(panel.error, cmap=SHADES, vmin=0, vmax=largest, interpolation="nearest", aspect="auto")
            below, middle = y + 2 * layout.tall + GAP, x + layout.side / 2
            write_line(figure, [(panel.label, 0)], middle, below, layout.side)
            write_line(figure, panel.numbers, middle, below + LINE, layout.side)
    return figure


def place_axes(figure: Figure, place: tuple[float, float, float, float]):  # type: ignore[no-untyped-def]
    """Add axes without ticks at (left, top, width, height) in inches."""
    x, y, w, h = place
    wide, high = figure.get_size_inches()
    axes = figure.add_axes((x / wide, 1 - (y + h) / high, w / wide, h / high))
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def place_picture(
    figure: Figure,
    picture: np.ndarray,
    place: tuple[float, float, float, float],
    box: tuple[int, int, int, int] | None = None,
) -> None:
    """Show ``picture`` at (left, top, width, height) in inches, with ``box`` marked."""
    axes = place_axes(figure, place)
    axes.imshow(picture, interpolation="nearest" if box is None else "antialiased", aspect="auto")
    if box is not None:
        top, left, bottom, right = box
        for colour, width in (("black", 2.4), (MARK, 1.2)):
            corner = (left - 0.5, top - 0.5)
            axes.add_patch(Rectangle(corner, right - left, bottom - top, fill=False, edgecolor=colour, linewidth=width))


def place_scale(figure: Figure, place: tuple[float, float, float, float], largest: float) -> None:
    """Draw the colours of the error maps in the middle of a place, from 0 to ``largest``."""
    x, y, w, h = place
    axes = place_axes(figure, (x + 0.1 * w, y + 0.42 * h, 0.8 * w, 0.12 * h))
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=SHADES, aspect="auto")
    write_line(figure, [("mean abs. error", 0)], x + w / 2, y + 0.42 * h - LINE, w)
    below = y + 0.55 * h
    write_line(figure, [("0", 0)], x + 0.12 * w, below, w)
    write_line(figure, [(f"{255 * largest:.0f}/255", 0)], x + 0.82 * w, below, 0.5 * w)


def write_line(figure: Figure, pieces: Sequence[tuple[str, int]], middle: float, top: float, width: float) -> None:
    """Write texts with their ranks side by side, separated by slashes: bold for rank 1, underlined for rank 2.

    Args:
        figure: the figure.
        pieces: texts and ranks.
        middle, top: centre and upper edge of the line in inches.
        width: available width in inches; a longer line is written smaller.
    """
    parts = [part for text, rank in pieces for part in ((" / ", 0), (text, rank))][1:]
    wide, high = figure.get_size_inches()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    texts = [
        figure.text(
            0, 1 - (top + 0.75 * LINE) / high, text, fontsize=SMALL, weight="bold" if rank == 1 else "normal", ha="left"
        )
        for text, rank in parts
    ]

    def widths() -> list[float]:
        return [t.get_window_extent(renderer).width / figure.dpi if t.get_text() else 0.0 for t in texts]

    if (total := sum(widths())) > width:
        for text in texts:
            text.set_fontsize(SMALL * width / total)
    x = middle - sum(widths()) / 2
    for text, (_, rank), length in zip(texts, parts, widths(), strict=True):
        text.set_x(x / wide)
        if rank == 2:
            y = 1 - (top + 0.9 * LINE) / high
            figure.add_artist(Line2D([x / wide, (x + length) / wide], [y, y], linewidth=0.6, color="black"))
        x += length


def panels_of(
    truth: np.ndarray,
    crops: Mapping[str, np.ndarray],
    errors: Mapping[str, np.ndarray],
    numbers: Mapping[str, Sequence[tuple[str, int]]],
) -> list[Panel]:
    """Return the panels of the reference and of each model.

    Args:
        truth: uint8 (h, w, 3), the crop of the reference.
        crops, errors, numbers: by model, see `Panel`.
    """
    return [
        Panel("HR", truth),
        *(Panel(label, crop, errors[label], numbers[label]) for label, crop in crops.items()),
    ]
