"""Encodes a picture strip by strip, each stage of the encoder after the other.

A stage keeps the last lines of its inputs, so that the next strip continues where this one ends. The only work done
twice is that of a stage on the lines that it keeps: ``2 * reach`` per strip, where tiles with an overlap repeat all
stages within the receptive field of the whole encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lmf import kernels
from lmf.encoders.stages import IMAGE, Stage


class Lines:
    """The features of an image, computed when they are asked for, from top to bottom.

    Args:
        stages: see `lmf.encoders.Encoder.stages`.
        image: (B, 3, h, w) network input.
        step: lines of a strip.
        axis: 0 if lines are rows, 1 if they are columns.
        convert: converts a part of the image to what the encoder receives, see `Decoder.encoder_input`.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        image: Tensor,
        step: int,
        axis: int = 0,
        convert: Callable[[Tensor], Tensor] = torch.positive,
    ) -> None:
        self._stages, self._image, self._dim, self._convert = stages, image, 2 + axis, convert
        self._total = image.shape[self._dim]
        self._strips = schedule(stages, self._total, step)
        self._maps, self._done = [Map(self._dim) for _ in stages], [0] * len(stages)

    def read(self, start: int, stop: int) -> Tensor:
        """Return lines ``start .. stop - 1`` of the features. Lines before ``start`` cannot be read any more."""
        features = self._maps[-1]
        with kernels.reduced(self._image) as half:
            while features.end < stop:
                self._advance()
        features.drop(start)
        lines = features.read(start, stop)
        return lines.float() if half else lines

    def _advance(self) -> None:
        """Compute one more strip of every stage that has enough lines of its inputs."""
        for number, first, last in next(self._strips):
            stage = self._stages[number]
            top, bottom = within(first - stage.reach, last + stage.reach, self._total)
            inputs = [self._read(source, top, bottom) for source in stage.inputs]
            self._done[number] = last
            for source in stage.inputs:
                self._forget(source)
            result = stage.run(*inputs)
            self._maps[number].append(result.narrow(self._dim, first - top, last - first))

    def _read(self, source: int, start: int, stop: int) -> Tensor:
        if source != IMAGE:
            return self._maps[source].read(start, stop)
        part = self._convert(self._image.narrow(self._dim, start, stop - start))
        return torch.empty_like(part, memory_format=torch.channels_last).copy_(part)  # see `SRModel.features`

    def _forget(self, source: int) -> None:
        """Drop the lines of a map that no stage needs any more."""
        if source != IMAGE:
            users = (number for number, stage in enumerate(self._stages) if source in stage.inputs)
            self._maps[source].drop(min(self._done[user] - self._stages[user].reach for user in users))


class Map:
    """The lines of a map that are still needed.

    Attributes:
        end: the line after the last one.
    """

    def __init__(self, dim: int) -> None:
        self.end, self._parts, self._dim = 0, list[Tensor](), dim

    def append(self, lines: Tensor) -> None:
        """Add lines at the end."""
        self._parts.append(lines)
        self.end += lines.shape[self._dim]

    def read(self, start: int, stop: int) -> Tensor:
        """Return lines ``start .. stop - 1``."""
        found, first = [], self.end - self._length()
        for part in self._parts:
            a, b = within(start - first, stop - first, part.shape[self._dim])
            if a < b:
                found.append(part.narrow(self._dim, a, b - a))
            first += part.shape[self._dim]
        return found[0] if len(found) == 1 else torch.cat(found, self._dim)

    def drop(self, before: int) -> None:
        """Drop the lines before ``before``, and copy what remains of their part, so that its memory becomes free."""
        first = self.end - self._length()
        while self._parts and first < before:
            part = self._parts.pop(0)
            length = part.shape[self._dim]
            if first + length > before:
                rest = part.narrow(self._dim, before - first, first + length - before)
                self._parts.insert(0, rest.clone(memory_format=torch.preserve_format))
            first += length

    def _length(self) -> int:
        return sum(part.shape[self._dim] for part in self._parts)


def schedule(stages: Sequence[Stage], total: int, step: int) -> Iterator[list[tuple[int, int, int]]]:
    """Yield for each strip what is computed: (number of the stage, first line, line after the last).

    Args:
        stages: the stages.
        total: lines of the image.
        step: lines of a strip.
    """
    done, read = [0] * len(stages), 0
    while done[-1] < total:
        read = min(total, read + step)
        strip = []
        for number, stage in enumerate(stages):
            ready = min(read if source == IMAGE else done[source] for source in stage.inputs)
            last = total if ready == total else ready - stage.reach
            if last > done[number]:
                strip.append((number, done[number], last))
                done[number] = last
        yield strip


def waste(stages: Sequence[Stage], total: int, step: int) -> float:
    """Return the share of lines that are computed twice, in the mean over all stages."""
    computed = 0
    for strip in schedule(stages, total, step):
        for number, first, last in strip:
            top, bottom = within(first - stages[number].reach, last + stages[number].reach, total)
            computed += bottom - top
    return computed / (total * len(stages)) - 1


def channels_held(stages: Sequence[Stage], total: int, step: int) -> int:
    """Return the largest number of channels, summed over lines, that are in memory at once.

    Times the pixels of a line and the bytes of a number, this is about the memory of the maps.
    """
    done, kept, most = [0] * len(stages), [0] * len(stages), 0  # lines before `kept` are dropped
    for strip in schedule(stages, total, step):
        for number, first, last in strip:
            stage = stages[number]
            top, bottom = within(first - stage.reach, last + stage.reach, total)
            done[number] = last
            for source in stage.inputs:
                users = [user for user, other in enumerate(stages) if source in other.inputs]
                if source != IMAGE:
                    kept[source] = max(kept[source], min(done[user] - stages[user].reach for user in users))
            copied = sum(3 if source == IMAGE else stages[source].width for source in stage.inputs)
            held = sum((end - start) * s.width for start, end, s in zip(kept, done, stages, strict=True))
            held += (bottom - top) * (copied + stage.temporaries) - (last - first) * stage.width
            most = max(most, held)
        kept[-1] = done[-1]  # read
    return most


def within(start: int, stop: int, total: int) -> tuple[int, int]:
    """Return the part of ``start .. stop`` in ``0 .. total``."""
    return max(0, start), min(total, stop)
