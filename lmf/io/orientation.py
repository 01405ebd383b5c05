"""The eight flips and rotations of a picture."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from torch import Tensor


@dataclass(frozen=True)
class Orientation:
    """A way to lay a picture: its rows reversed, its columns reversed, and then both axes swapped.

    Attributes:
        rows: whether rows are reversed.
        cols: whether columns are reversed.
        swap: whether rows become columns.
    """

    rows: bool
    cols: bool
    swap: bool

    def apply(self, picture: Tensor) -> Tensor:
        """Lay ``picture`` (..., h, w) this way: (..., w, h) if axes are swapped, else (..., h, w)."""
        picture = picture.flip(self._reversed) if self._reversed else picture
        return picture.mT if self.swap else picture

    def undo(self, picture: Tensor) -> Tensor:
        """Lay a picture back that `apply` has laid this way."""
        picture = picture.mT if self.swap else picture
        return picture.flip(self._reversed) if self._reversed else picture

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) that a picture of ``size`` has after `apply`."""
        return size[::-1] if self.swap else size

    @property
    def _reversed(self) -> list[int]:
        """Axes that are reversed."""
        return [axis for axis, reverse in ((-2, self.rows), (-1, self.cols)) if reverse]


ORIENTATIONS = tuple(Orientation(rows, cols, swap) for swap, rows, cols in product((False, True), repeat=3))
