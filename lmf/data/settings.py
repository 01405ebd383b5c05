"""Typed settings of the data, which check their values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from lmf.errors import UserError, did_you_mean
from lmf.metrics import Protocol

T = TypeVar("T")
LR = Literal["stored", "pil", "matlab"]
OnCorrupt = Literal["skip", "stop"]


class DataError(UserError):
    """Raised for data that is missing, damaged or unsuitable. The message says what to do."""


@dataclass(frozen=True)
class FileSettings:
    """Settings for reading picture files.

    Args:
        cache: folder for decoded pictures, see `lmf.data.ImageFolder`; None decodes on every access.
        on_corrupt: what to do with pictures that are damaged or too small, ``"stop"`` or ``"skip"``.

    Raises:
        DataError: if ``on_corrupt`` is unknown.
    """

    cache: str | Path | None = None
    on_corrupt: OnCorrupt = "stop"

    def __post_init__(self) -> None:
        check_choice("on_corrupt", self.on_corrupt, OnCorrupt)


@dataclass(frozen=True)
class Sampling:
    """Settings of training samples.

    Args:
        patch: side of the LR patch in pixels.
        queries: number of target pixels.
        min_scale: lower end of the range of random scales, above 0.
        max_scale: upper end of the range.
        graphics: share of the samples that the program draws, see `lmf.data.graphics`, from 0 to 1.

    Raises:
        DataError: if a value is out of range.
    """

    patch: int = 48
    queries: int = 2304
    min_scale: float = 1.0
    max_scale: float = 4.0
    graphics: float = 0.0

    def __post_init__(self) -> None:
        check_count("patch", self.patch)
        check_count("queries", self.queries)
        if not 0 < self.min_scale <= self.max_scale < math.inf:
            raise DataError(
                f"scales must satisfy 0 < min_scale <= max_scale, got {self.min_scale} and {self.max_scale}"
            )
        if not 0 <= self.graphics <= 1:
            raise DataError(f"the share of graphics must be between 0 and 1, got {self.graphics}")
        if self.graphics and round(self.patch * self.min_scale) < 16:
            raise DataError(
                f"graphics need crops of at least 16 x 16 pixels, but patch {self.patch} at scale {self.min_scale} is "
                "smaller; raise patch or min_scale, or set graphics to 0"
            )


@dataclass(frozen=True)
class EvalSettings:
    """Settings of evaluation sets.

    Args:
        sets: names of the sets to use; None uses all.
        scales: scales at which each set is used, any numbers of at least 1.
        protocol: evaluation protocol, ``"div2k"``, ``"benchmark"`` or ``"raw"``; see
            `lmf.metrics.functional.protocol_options`.
        lr: source of LR pictures, ``"stored"``, ``"pil"`` or ``"matlab"``; see `lmf.data.EvalSet`.
        limit: use at most this many pictures of a set; None uses all.
        crop: side of the central crop of each picture in HR pixels; None uses whole pictures.

    Raises:
        DataError: if a value is out of range.
    """

    sets: Sequence[str] | None = None
    scales: Sequence[float] = (2, 3, 4)
    protocol: Protocol = "benchmark"
    lr: LR = "stored"
    limit: int | None = None
    crop: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.scales, str) or not isinstance(self.scales, Sequence) or not self.scales:
            raise DataError(f"scales must be a list such as [2,3.7], got {self.scales!r}")
        for scale in self.scales:
            if not (isinstance(scale, int | float) and math.isfinite(scale) and scale >= 1):
                raise DataError(f"an evaluation scale must be a number of at least 1, got {scale!r}")
        check_choice("protocol", self.protocol, Protocol)
        check_choice("lr", self.lr, LR)
        for name, value in (("limit", self.limit), ("crop", self.crop)):
            if value is not None:
                check_count(name, value)
        least = math.ceil(max(self.scales))
        if self.crop is not None and self.crop < least:
            raise DataError(
                f"crop {self.crop} leaves no LR pixel at scale {max(self.scales):g}; it must be at least {least}"
            )

    def select(self, sources: Mapping[str, T]) -> dict[str, T]:
        """Return the ``sources`` that ``sets`` names, in that order.

        Raises:
            DataError: if a name is unknown, or ``sets`` is empty.
        """
        if self.sets is None:
            return dict(sources)
        unknown = [name for name in self.sets if name not in sources]
        if unknown or not self.sets:
            similar = did_you_mean(unknown, sources)
            raise DataError(f"sets must be some of {', '.join(sources)}, got {', '.join(unknown) or 'none'}{similar}")
        return {name: sources[name] for name in self.sets}


def check_count(name: str, value: Any) -> None:
    """Check that ``value`` is an integer of at least 1.

    Raises:
        DataError: if it is not.
    """
    if not isinstance(value, int) or value < 1:
        raise DataError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Check that ``value`` is one of the literals ``choices``.

    Raises:
        DataError: if it is not.
    """
    if value not in get_args(choices):
        *others, last = (repr(choice) for choice in get_args(choices))
        raise DataError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")
