"""Estimators of scale-to-modulation tables from the errors of coarse rendering.

An estimator accumulates the errors of one picture after another in states of fixed size, which are plain arrays and can
be saved. Pictures are distributed over ``folds`` states, and each state receives its pictures in order. The result
therefore does not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lmf.calibration.allocation import allocate
from lmf.renderers.cmsr.tables import Table, psnr

Array = npt.NDArray[Any]
State = dict[str, Array]
ByScale = Mapping[float, Sequence[Table]]


@dataclass(frozen=True)
class Errors:
    """The errors of rendering one picture at coarser levels, per latent.

    Attributes:
        intensity: (N,) modulation intensity of each latent.
        pixels: (N,) number of output pixels in each latent.
        squares: for each level below the target scale, (N,) sums over pixels and channels of the squared differences
            in network units between rendering at the target scale and at that level with bilinear enlargement.
    """

    intensity: Array
    pixels: Array
    squares: Mapping[float, Array]


class Estimator(Protocol):
    """An estimator of scale-to-modulation tables.

    Attributes:
        folds: number of states.
        clip, skip: how to measure errors, see `lmf.calibration.measurement.measure`.
        overlap: whether its tables are for rendering with overlap, see `lmf.renderers.CMSR`.
        scales: target scales, ascending.
        levels: scales to render at, ascending. A target scale uses the levels below it.
    """

    folds: int
    clip: bool
    skip: bool
    overlap: bool
    scales: list[float]
    levels: list[float]

    @property
    def settings(self) -> Mapping[str, Any]:
        """All options that affect the tables, in types of JSON. Other settings start a calibration anew."""

    def empty(self) -> State:
        """Return a state without pictures."""

    def update(self, state: State, scale: float, errors: Errors) -> None:
        """Add the errors of a picture at a target scale to ``state`` in place."""

    def propose(self, states: Sequence[State]) -> ByScale:
        """Return candidate tables from the states of all folds, equally many for each scale."""

    def select(self, proposed: ByScale, outcomes: Sequence[State]) -> ByScale:
        """Choose tables by the results of rendering with them.

        Args:
            proposed: tables from `propose`.
            outcomes: one state per fold. ``squares`` (scales, tables) holds sums of squared differences from dense
                rendering in network units, ``rendered`` (scales, tables) numbers of rendered pixels, and ``pixels``
                (scales,) numbers of output pixels.
        """


class Released:
    """The estimator of the released code, which limits a level by the first candidate intensity that fails.

    A candidate fails if any picture exceeds the threshold at this intensity.

    Args:
        scales: target scales.
        levels: scales to render at. A target scale uses the levels below it.
        thresholds: mean squared differences to keep, in network units.
        largest: largest of the 101 equidistant candidate intensities. The released code uses 1 for LM-LIIF and 0.5 for
            LM-LTE and LM-CiaoSR.
        skip: whether to compare pictures with the bilinear skip. The released tables for LM-CiaoSR do not.
    """

    folds = 1
    clip = False
    overlap = False

    def __init__(
        self,
        scales: Sequence[float],
        levels: Sequence[float],
        thresholds: Sequence[float],
        largest: float = 1.0,
        skip: bool = True,
    ) -> None:
        self.scales, self.levels, self.thresholds = sorted(scales), sorted(levels), sorted(thresholds)
        self.candidates = [i * largest / 100 for i in range(101)]
        self.skip = skip

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "scales": self.scales,
            "levels": self.levels,
            "thresholds": self.thresholds,
            "candidates": self.candidates,
            "skip": self.skip,
        }

    def empty(self) -> State:
        """Return limits of 1 for every scale, threshold and level."""
        return {"limits": np.ones((len(self.scales), len(self.thresholds), len(self.levels) + 1))}

    def update(self, state: State, scale: float, errors: Errors) -> None:
        mean_squares = {level: self.mean_squares(errors, squares) for level, squares in errors.squares.items()}
        for threshold, limits in zip(self.thresholds, state["limits"][self.scales.index(scale)], strict=True):
            remaining = list(range(len(self.candidates)))
            below = [level for level in self.levels if level < scale]
            for i, level in enumerate(below):
                limit = limits[i]
                for c in list(remaining):
                    mean_square = mean_squares[level][c]
                    if mean_square <= threshold:
                        remaining.remove(c)
                        limit = self.candidates[c]
                    elif not np.isnan(mean_square):
                        break
                limits[: i + 1] = np.minimum(limits[: i + 1], limit)
            if remaining:
                limits[-1] = self.candidates[remaining[-1]]
                limits[: len(below)] = np.minimum(limits[: len(below)], limits[-1])

    def mean_squares(self, errors: Errors, squares: Array) -> list[float]:
        """Return the mean squared difference of the latents within 0.001 of each candidate, NaN without any."""
        means = []
        for candidate in self.candidates:
            near = np.abs(errors.intensity - np.float32(candidate)) <= 0.001
            count = 3 * errors.pixels[near].sum()
            means.append(squares[near].sum() / count if count else np.nan)
        return means

    def propose(self, states: Sequence[State]) -> ByScale:
        tables: dict[float, list[Table]] = {}
        for scale, by_threshold in zip(self.scales, states[0]["limits"].tolist(), strict=True):
            below = [level for level in self.levels if level < scale]
            tables[scale] = [
                Table({**dict(zip(below, limits, strict=False)), scale: limits[-1]}, threshold)
                for threshold, limits in zip(self.thresholds, by_threshold, strict=True)
            ]
        return tables

    def select(self, proposed: ByScale, outcomes: Sequence[State]) -> ByScale:
        """Return all tables with their shares; thresholds stay as estimated, whether they are kept or not."""
        return {
            scale: [
                replace(table, share=float(share))
                for table, share in zip(proposed[scale], shares(outcomes, n), strict=True)
            ]
            for n, scale in enumerate(self.scales)
        }


class Pooled:
    """The default estimator, which assigns levels to intensities so that the fewest pixels are rendered.

    Pictures are accumulated in histograms over intensity of their pixels and of their squared differences at each
    level. For a given price per squared difference, dynamic programming finds the cheapest assignment in which higher
    intensities use finer levels. Varying the price yields the candidate tables. Forty of them are tried on the
    pictures, and the cheapest that keeps a threshold is selected. A table keeps a threshold if the mean PSNR over folds
    is at least the PSNR of the threshold, with a confidence of about 95 %.

    No picture dominates the result. The assignment uses the differences of a fold relative to its differences at the
    coarsest level. The mean PSNR weights difficult folds by their decibels, and a fold's PSNR counts by at most 6 dB
    above the threshold's.

    Args:
        scales, levels, thresholds: see `Released`.
    """

    folds = 32
    clip = True
    skip = True
    overlap = True
    # Geometric bins from 2^-10 to 2^6, 1 % wide. The first and the last bin include all values outside. No edge equals
    # 1, because a bound of 1 means "all".
    OCTAVES, PER_OCTAVE = (-10, 6), 64
    PRICES = np.geomspace(1e-3, 1e9, 400)  # output pixels per unit of relative difference
    TRIED = 40
    CONFIDENCE, HEADROOM_DB = 1.7, 6.0  # in standard errors; see above

    def __init__(self, scales: Sequence[float], levels: Sequence[float], thresholds: Sequence[float]) -> None:
        self.scales, self.levels, self.thresholds = sorted(scales), sorted(levels), sorted(thresholds)
        first, last = self.OCTAVES
        self.bins = (last - first) * self.PER_OCTAVE
        self.edges = 2.0 ** (first + (np.arange(self.bins) + 0.5) / self.PER_OCTAVE)  # upper edges
        self.edges[-1] = np.inf

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"scales": self.scales, "levels": self.levels, "thresholds": self.thresholds}

    def empty(self) -> State:
        """Return empty histograms."""
        return {
            "pixels": np.zeros((len(self.scales), self.bins)),
            "squares": np.zeros((len(self.scales), len(self.levels), self.bins)),
        }

    def update(self, state: State, scale: float, errors: Errors) -> None:
        at = self.scales.index(scale)
        index = np.searchsorted(self.edges, errors.intensity).clip(max=self.bins - 1)
        state["pixels"][at] += np.bincount(index, errors.pixels, self.bins)
        for level, squares in errors.squares.items():
            state["squares"][at, self.levels.index(level)] += np.bincount(index, squares, self.bins)

    def propose(self, states: Sequence[State]) -> ByScale:
        return {scale: self.candidate_tables(scale, states) for scale in self.scales}

    def candidate_tables(self, scale: float, states: Sequence[State]) -> list[Table]:
        """Return dense rendering and tables for the range of thresholds.

        The range starts below the lowest threshold, because the histograms miss a part of the error.
        """
        at, below = self.scales.index(scale), [i for i, level in enumerate(self.levels) if level < scale]
        states = [state for state in states if state["pixels"][at].any()]
        pixels = np.array([state["pixels"][at] for state in states])  # (K, bins)
        numbers = 3 * pixels.sum(axis=1)[:, None, None]
        squares = np.array([state["squares"][at, below] for state in states]) / numbers  # (K, L - 1, bins)
        squares = np.pad(squares, ((0, 0), (0, 1), (0, 0)))  # the last level is the target scale, without error
        relative = squares / np.maximum(squares[:, :1].sum(axis=2, keepdims=True), 1e-12)
        cost = np.array([(self.levels[i] / scale) ** 2 for i in below] + [1.0])
        share = (pixels / pixels.sum(axis=1, keepdims=True)).mean(axis=0)
        levels = allocate(relative.mean(axis=0), share, cost, self.PRICES)  # (P, bins)
        error = np.median([fold[levels, np.arange(self.bins)].sum(axis=1) for fold in squares], axis=0)  # (P,)
        tables = [Table({})]
        for threshold in np.geomspace(self.thresholds[0] / 30, self.thresholds[-1], self.TRIED):
            best = levels[min(int((error > threshold).sum()), len(levels) - 1)]
            bounds = {self.levels[i]: float(self.edges[best == n].max(initial=0)) for n, i in enumerate(below)}
            tables.append(Table({level: bound for level, bound in bounds.items() if bound}))
        return tables

    def select(self, proposed: ByScale, outcomes: Sequence[State]) -> ByScale:
        selected = {}
        for n, scale in enumerate(self.scales):
            folds = [outcome for outcome in outcomes if outcome["pixels"][n]]
            numbers = 3 * np.array([outcome["pixels"][n] for outcome in folds])[:, None]
            error = np.array([outcome["squares"][n] for outcome in folds]) / numbers  # (K, tables)
            precision = 10 * np.log10(4 / np.maximum(error, 1e-12))
            share, tables = shares(outcomes, n), []
            for threshold in self.thresholds:
                capped = np.minimum(precision, psnr(threshold) + self.HEADROOM_DB)
                standard_error = capped.std(axis=0, ddof=1) / np.sqrt(len(folds)) if len(folds) > 1 else 0.0
                kept = capped.mean(axis=0) - self.CONFIDENCE * standard_error >= psnr(threshold)
                best = int(np.where(kept, share, np.inf).argmin())
                tables.append(Table(proposed[scale][best].bounds, threshold, float(share[best])))
            selected[scale] = tables
        return selected


def shares(outcomes: Sequence[State], n: int) -> Array:
    """Return rendered pixels divided by output pixels, for each table (tables,) of scale number ``n``."""
    rendered, pixels = (sum(outcome[key][n] for outcome in outcomes) for key in ("rendered", "pixels"))
    share: Array = rendered / pixels
    return share
