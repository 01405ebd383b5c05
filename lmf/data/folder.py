"""Lists of image files with a cache of decoded images that workers and ranks share."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np

from lmf import io
from lmf.data.degradations import Array
from lmf.data.settings import DataError, OnCorrupt, check_choice
from lmf.io.files import write_bytes

log = logging.getLogger(__name__)


class _TooSmall(ValueError):
    """Raised for an image that is too small."""


def list_images(root: str | Path) -> list[Path]:
    """Return all image files in ``root`` and its subfolders, sorted by path; see `lmf.io.list_pictures`.

    Raises:
        DataError: if the folder does not exist, cannot be read or contains no image.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"no such folder of images: {root.absolute()}")
    try:
        paths = io.list_pictures(root)
    except io.ImageError as error:
        raise DataError(str(error)) from error
    if not paths:
        raise DataError(f"no images in {root.absolute()} or its subfolders (searched for {', '.join(io.SUFFIXES)})")
    return paths


def to_rgb(picture: Array) -> Array:
    """Convert a picture from `lmf.io.read` to uint8 (H, W, 3).

    Grey is replicated, alpha is dropped, and 16 bits are rounded to 8.
    """
    if picture.dtype == np.uint16:
        picture = ((picture.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if picture.ndim == 2:
        picture = picture[..., None]
    if picture.shape[2] < 3:
        return np.ascontiguousarray(np.broadcast_to(picture[..., :1], (*picture.shape[:2], 3)))
    return np.ascontiguousarray(picture[..., :3])


class ImageFolder:
    """A list of image files, read as uint8 RGB arrays.

    The constructor checks the headers. An image is decoded on first access.

    Args:
        paths: the files.
        cache: folder for decoded images, one memory-mapped ``.npy`` each, named by a hash of path, size and time of the
            original. Processes may share it, and it may be deleted when no process uses it. None decodes on every
            access.
        smallest: least height and width of an image in pixels.
        on_corrupt: what to do with images that are damaged or too small. ``"stop"`` raises an error. ``"skip"`` logs a
            warning and leaves the image out, or, if only decoding fails, replaces it with the next image of the list.
        decode: decode all images now, so that none is replaced later.
        limit: use at most this many images; None uses all.

    Raises:
        DataError: if an image is damaged or too small with ``"stop"``, or if no image remains.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        cache: str | Path | None = None,
        smallest: int = 1,
        on_corrupt: OnCorrupt = "stop",
        decode: bool = False,
        limit: int | None = None,
    ) -> None:
        check_choice("on_corrupt", on_corrupt, OnCorrupt)
        self.on_corrupt = on_corrupt
        self.paths: list[Path] = []
        self.sizes: list[tuple[int, int]] = []
        self._copy: dict[Path, Path] = {}
        self._broken: set[int] = set()
        for path in paths:
            if len(self.paths) == limit:
                break
            try:
                size = io.read_size(path)
                if min(size) < smallest:
                    raise _TooSmall(
                        f"image {path} is {size[0]} x {size[1]}, but both sides must be at least {smallest} pixels; "
                        "remove it, set on_corrupt=skip, or ask for smaller patches or scales"
                    )
                if cache is not None:
                    self._copy[path] = Path(cache).expanduser() / _cached_name(path)
                if decode:
                    self._load(path)
            except (io.ImageError, _TooSmall) as error:
                self._report(error)
                continue
            self.paths.append(path)
            self.sizes.append(size)
        if not self.paths:
            raise DataError(f"none of {len(paths)} images can be used")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Array:
        """Return image ``index``, uint8 (H, W, 3), read-only.

        With ``on_corrupt="skip"`` a damaged image is replaced with the next intact one.

        Raises:
            DataError: if the image is damaged with ``"stop"``, or if no image can be decoded.
        """
        for step in range(len(self.paths)):
            candidate = (index + step) % len(self.paths)
            if candidate in self._broken:
                continue
            try:
                return self._load(self.paths[candidate])
            except io.ImageError as error:
                self._report(error)
                self._broken.add(candidate)
        raise DataError(f"none of {len(self.paths)} images can be decoded")

    def _report(self, error: ValueError) -> None:
        """Raise or log ``error``, according to ``on_corrupt``."""
        if self.on_corrupt == "stop":
            raise DataError(str(error)) from error
        _warn(f"skipped: {error}")

    def _load(self, path: Path) -> Array:
        """Read an image through the cache."""
        copy = self._copy.get(path)
        if copy is None:
            return to_rgb(io.read(path))
        if copy.exists():
            with suppress(ValueError, EOFError):  # damaged
                return _mapped(copy)
        _save(copy, to_rgb(io.read(path)))
        return _mapped(copy)


def intact(paths: Sequence[Path], cache: str | Path | None = None) -> list[Path]:
    """Return the files that can be decoded, and log a warning for each of the others."""
    return ImageFolder(paths, cache, on_corrupt="skip", decode=True).paths


@cache
def _warn(message: str) -> None:
    """Log a warning once, although several sets may check the same file."""
    log.warning(message)


@lru_cache(maxsize=128)  # limits the number of open files
def _mapped(path: Path) -> Array:
    """Open a decoded copy as a read-only memory map."""
    array: Array = np.load(path, mmap_mode="r")
    return array


def _cached_name(path: Path) -> str:
    """Return the name of the decoded copy of an image."""
    status = path.stat()
    key = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    return f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"


def _save(path: Path, array: Array) -> None:
    """Write ``array`` to a ``.npy`` file atomically."""
    data = BytesIO()
    np.save(data, array)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data.getvalue())
    except OSError as error:
        raise DataError(f"cannot write the image cache {path.parent}: {error.strerror or error}") from error
