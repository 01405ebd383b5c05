"""Reads the next picture while the current one is enlarged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

from lmf import io

AHEAD = 1 << 24  # largest number of pixels of a picture that is read while another one is enlarged


class Source(NamedTuple):
    """An opened picture file.

    Attributes:
        pages: number of pages.
        pictures: the pages, of which the first is in memory.
    """

    pages: int
    pictures: Iterator[io.Picture]


def opened(path: Path, max_pixels: int) -> Source:
    """Read the first page of a picture.

    Raises:
        ImageError: if it cannot be read.
    """
    count = io.read_header(path).pages
    pages = io.read_pages(path, max_pixels)
    return Source(count, chain([next(pages)], pages))


def in_order(paths: Sequence[Path], max_pixels: int) -> Iterator[Future[Source]]:
    """Yield the pictures of ``paths`` one by one, each opened while the caller works on the one before.

    A picture of more than `AHEAD` pixels is opened when it is asked for, so that two large ones are never in memory.
    """
    with ThreadPoolExecutor(1, "reader") as pool:
        following: Future[Source] | None = None
        for path, after in zip_longest(paths, paths[1:]):
            yield following or pool.submit(opened, path, max_pixels)
            following = pool.submit(opened, after, max_pixels) if after and is_small(after) else None


def is_small(path: Path) -> bool:
    """Return whether the first page of a picture has at most `AHEAD` pixels, as far as its header can be read."""
    try:
        height, width = io.read_size(path)
    except io.ImageError:
        return False
    return height * width <= AHEAD
