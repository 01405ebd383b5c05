"""How scale-to-modulation tables follow from the errors of coarse rendering.

An estimator sums up what it is shown, one picture after the other, in states of fixed size: plain arrays that can be
saved. Pictures are dealt to ``folds`` states, each of which sees its pictures in order, so that the result does not
depend on how many processes share the work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from lmf.renderers.cmsr.tables import Table, psnr

State = dict[str, np.ndarray]
ByScale = Mapping[float, Sequence[Table]]


@dataclass(frozen=True)
class Errors:
    """What rendering one picture coarsely costs, by latent.

    Attributes:
        intensity: (N,) modulation intensity of each latent.
        pixels: (N,) output pixels in each.
        squares: for each level below the target scale (N,) sums over pixels and channels of squared differences, in
            network units, between rendering at the target scale and at that level, enlarged bilinearly.
    """

    intensity: np.ndarray
    pixels: np.ndarray
    squares: Mapping[float, np.ndarray]


class Estimator(Protocol):
    """Attributes:
    folds: how many states there are.
    clip, skip: how errors are to be measured, see `lmf.calibration.loop.measure`.
    overlap: how pictures are rendered with its tables, see `lmf.renderers.CMSR`.
    scales: target scales.
    levels: scales to render at, ascending; those below a target scale serve it.
    """

    folds: int
    clip: bool
    skip: bool
    overlap: bool
    scales: list[float]
    levels: list[float]

    def empty(self) -> State: ...

    def update(self, state: State, scale: float, errors: Errors) -> None:
        """Adds a picture at a target scale to ``state``, in place."""

    def propose(self, states: Sequence[State]) -> ByScale:
        """Tables, from all folds; as many for each scale."""

    def select(self, proposed: ByScale, outcomes: Sequence[State]) -> ByScale:
        """The tables to keep, from what each fold's pictures look like when rendered with the ``proposed`` ones.

        Args:
            outcomes: ``squares`` and ``rendered`` (scales, tables): sums of squared differences from dense rendering,
                in network units, and of rendered pixels; ``pixels`` (scales,), of output.
        """


class Released:
    """The released code's estimator: the first candidate intensity that some picture fails at is the limit.

    Args:
        scales: target scales.
        levels: all levels; those below a target scale serve it.
        thresholds: mean squared differences to keep, in network units.
        largest: of the 101 equidistant candidate intensities; 1 for LM-LIIF, 0.5 for LM-LTE and LM-CiaoSR.
        skip: their tables for LM-CiaoSR compare pictures without the bilinear skip.
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

    def empty(self) -> State:
        return {"limits": np.ones((len(self.scales), len(self.thresholds), len(self.levels) + 1))}

    def update(self, state: State, scale: float, errors: Errors) -> None:
        mean_squares = {level: self.mean_squares(errors, squares) for level, squares in errors.squares.items()}
        for threshold, limits in zip(self.thresholds, state["limits"][self.scales.index(scale)], strict=True):
            left = list(range(len(self.candidates)))
            below = [level for level in self.levels if level < scale]
            for i, level in enumerate(below):
                limit = limits[i]
                for c in list(left):
                    mean_square = mean_squares[level][c]
                    if mean_square <= threshold:
                        left.remove(c)
                        limit = self.candidates[c]
                    elif not np.isnan(mean_square):
                        break
                limits[: i + 1] = np.minimum(limits[: i + 1], limit)
            if left:
                limits[-1] = self.candidates[left[-1]]
                limits[: len(below)] = np.minimum(limits[: len(below)], limits[-1])

    def mean_squares(self, errors: Errors, squares: np.ndarray) -> list[float]:
        """Mean squared difference over the latents within 0.001 of each candidate; nan where there are none."""
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
        """All of them: their thresholds are what they were estimated for, kept or not."""
        return {
            scale: [
                replace(table, share=float(share))
                for table, share in zip(proposed[scale], shares(outcomes, n), strict=True)
            ]
            for n, scale in enumerate(self.scales)
        }


class Pooled:
    """Ours: the allocation of levels to intensities that renders the fewest pixels for its mean squared difference.

    Pictures are summed up as histograms over intensity: pixels, and squared differences at each level; every pixel
    counts. For a price per squared difference the best allocation in which finer levels go with higher intensities is
    found exactly, by dynamic programming; over all prices these are the tables worth having. Forty of them are then
    tried on all pictures: the cheapest is taken that keeps a threshold, that is, if the mean over folds of its
    PSNR is at least the threshold's with a confidence of about 95 %.

    No picture decides alone: in the allocation the differences of a fold count relative to its own at the coarsest
    level, and in the mean of PSNR one that is hard throughout counts by its decibels, one that is empty by at most 6
    more than asked.

    Args:
        scales, levels, thresholds: as for `Released`.
    """

    folds = 32
    clip = True
    skip = True
    overlap = True
    # Geometric bins from 2^-10 to 2^6, 1 % wide. What is less or more intense falls into the first or last. No edge is
    # 1, which as a bound means all.
    OCTAVES, PER_OCTAVE = (-10, 6), 64
    PRICES = np.geomspace(1e-3, 1e9, 400)  # output pixels per unit of relative difference
    TRIED = 40
    CONFIDENCE, HEADROOM_DB = 1.7, 6.0  # standard errors; see above

    def __init__(self, scales: Sequence[float], levels: Sequence[float], thresholds: Sequence[float]) -> None:
        self.scales, self.levels, self.thresholds = sorted(scales), sorted(levels), sorted(thresholds)
        first, last = self.OCTAVES
        self.bins = (last - first) * self.PER_OCTAVE
        self.edges = 2.0 ** (first + (np.arange(self.bins) + 0.5) / self.PER_OCTAVE)  # upper ones
        self.edges[-1] = np.inf

    def empty(self) -> State:
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
        return {scale: self.worth_having(scale, states) for scale in self.scales}

    def worth_having(self, scale: float, states: Sequence[State]) -> list[Table]:
        """Full rendering, and tables for the range of thresholds and, as estimates miss some of the error, below it."""
        at, below = self.scales.index(scale), [i for i, level in enumerate(self.levels) if level < scale]
        states = [state for state in states if state["pixels"][at].any()]
        pixels = np.array([state["pixels"][at] for state in states])  # (K, bins)
        numbers = 3 * pixels.sum(axis=1)[:, None, None]
        squares = np.array([state["squares"][at, below] for state in states]) / numbers  # (K, L - 1, bins)
        squares = np.pad(squares, ((0, 0), (0, 1), (0, 0)))  # the last level, that of the target, is exact
        relative = squares / np.maximum(squares[:, :1].sum(axis=2, keepdims=True), 1e-12)
        cost = np.array([(self.levels[i] / scale) ** 2 for i in below] + [1.0])
        share = (pixels / pixels.sum(axis=1, keepdims=True)).mean(axis=0)
        levels = allocate(relative.mean(axis=0), share, cost, self.PRICES)  # (P, bins)
        error = np.median([fold[levels, np.arange(self.bins)].sum(axis=1) for fold in squares], axis=0)  # (P,)
        found = [Table({})]
        for threshold in np.geomspace(self.thresholds[0] / 30, self.thresholds[-1], self.TRIED):
            best = levels[min(int((error > threshold).sum()), len(levels) - 1)]
            bounds = {self.levels[i]: float(self.edges[best == n].max(initial=0)) for n, i in enumerate(below)}
            found.append(Table({level: bound for level, bound in bounds.items() if bound}))
        return found

    def select(self, proposed: ByScale, outcomes: Sequence[State]) -> ByScale:
        found = {}
        for n, scale in enumerate(self.scales):
            own = [outcome for outcome in outcomes if outcome["pixels"][n]]
            numbers = 3 * np.array([outcome["pixels"][n] for outcome in own])[:, None]
            error = np.array([outcome["squares"][n] for outcome in own]) / numbers  # (K, tables)
            precision = 10 * np.log10(4 / np.maximum(error, 1e-12))
            share, tables = shares(outcomes, n), []
            for threshold in self.thresholds:
                counted = np.minimum(precision, psnr(threshold) + self.HEADROOM_DB)
                doubt = counted.std(axis=0, ddof=1) / np.sqrt(len(own)) if len(own) > 1 else 0.0
                kept = counted.mean(axis=0) - self.CONFIDENCE * doubt >= psnr(threshold)
                best = int(np.where(kept, share, np.inf).argmin())
                tables.append(Table(proposed[scale][best].bounds, threshold, float(share[best])))
            found[scale] = tables
        return found


def shares(outcomes: Sequence[State], n: int) -> np.ndarray:
    """Rendered pixels / output pixels of each table at scale number ``n``."""
    return sum(outcome["rendered"][n] for outcome in outcomes) / sum(outcome["pixels"][n] for outcome in outcomes)


def allocate(squares: np.ndarray, pixels: np.ndarray, cost: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """For each price the cheapest level of every bin, levels not falling from one bin to the next.

    Minimises the sum over bins of ``cost[level] * pixels + price * squares[level]``. Of equal ones the finer is taken,
    and so in bins without pixels the level of the next bin, or the finest after the last.

    Args:
        squares: (L, bins), 0 for the last level.
        pixels: (bins,).
        cost: (L,), rising.
        prices: (P,), may be infinite.

    Returns:
        Indices of levels (P, bins).
    """
    with np.errstate(invalid="ignore"):
        priced = np.nan_to_num(prices[:, None, None] * squares, nan=0.0, posinf=np.inf)
    objective = priced + cost[:, None] * pixels  # (P, L, bins)
    count, bins = len(cost), len(pixels)
    best = np.zeros((len(prices), count))  # of all bins so far, the last of them at this level
    before = np.zeros((len(prices), count, bins), dtype=np.int64)  # which level the bin before then has
    for b in range(bins):
        least, level = best[:, 0], np.zeros(len(prices), dtype=np.int64)
        for n in range(count):
            better = best[:, n] <= least
            least, level = np.where(better, best[:, n], least), np.where(better, n, level)
            before[:, n, b] = level
            best[:, n] = least
        best = best + objective[:, :, b]
    chosen = np.empty((len(prices), bins), dtype=np.int64)
    row = np.arange(len(prices))
    chosen[:, -1] = count - 1 - best[:, ::-1].argmin(axis=1)
    for b in range(bins - 1, 0, -1):
        chosen[:, b - 1] = before[row, chosen[:, b], b]
    return chosen
