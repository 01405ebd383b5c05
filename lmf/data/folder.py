"""A list of image files, decoded once into a cache that workers and ranks share."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np

from lmf import io
from lmf.data.settings import DataError, OnCorrupt, check_choice
from lmf.io.files import write_bytes

log = logging.getLogger(__name__)


class _Unfit(ValueError):
    """An image too small to be used."""


def list_images(root: str | Path) -> list[Path]:
    """All image files below ``root``, sorted by path; see `lmf.io.list_pictures`.

    Raises:
        DataError: no such folder, one that cannot be read, or no image in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"no such folder of images: {root.absolute()}")
    try:
        paths = io.list_pictures(root)
    except io.ImageError as error:
        raise DataError(str(error)) from error
    if not paths:
        raise DataError(f"no images in {root.absolute()} (looked for {', '.join(io.SUFFIXES)} at any depth)")
    return paths


def to_rgb(picture: np.ndarray) -> np.ndarray:
    """Converts what `lmf.io.read` returns to uint8 (H, W, 3): replicates grey, drops alpha, rounds 16 bits to 8."""
    if picture.dtype == np.uint16:
        picture = ((picture.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if picture.ndim == 2:
        picture = picture[..., None]
    if picture.shape[2] < 3:
        return np.ascontiguousarray(np.broadcast_to(picture[..., :1], (*picture.shape[:2], 3)))
    return np.ascontiguousarray(picture[..., :3])


class ImageFolder:
    """Image files as uint8 RGB arrays.

    Headers are checked when the object is made; an image is decoded when it is first asked for.

    Args:
        paths: the files.
        cache: folder for decoded copies, one memory-mapped ``.npy`` each, named after path, size and time of the
            original. Processes may share it, and it may be deleted when none uses it. None decodes on every access.
        smallest: the least height and width an image must have.
        on_corrupt: what to do about images that are damaged or too small. ``"stop"`` raises; ``"skip"`` leaves them
            out with a warning: at once if the header shows it, else by taking the next image of the list.
        decode: decode every image now, so that none has to be replaced later.
        limit: only the first so many images that can be used; None uses all.

    Raises:
        DataError: naming the image, for ``"stop"``; or if no image remains.
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
                    raise _Unfit(
                        f"image {path} is {size[0]} x {size[1]}, but both sides must be at least {smallest} pixels; "
                        "remove it, set on_corrupt=skip, or ask for smaller patches or scales"
                    )
                if cache is not None:
                    self._copy[path] = Path(cache).expanduser() / _cached_name(path)
                if decode:
                    self._load(path)
            except (io.ImageError, _Unfit) as error:
                self._unfit(error)
                continue
            self.paths.append(path)
            self.sizes.append(size)
        if not self.paths:
            raise DataError(f"none of {len(paths)} images can be used")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        """Image ``index``, uint8 (H, W, 3), read-only.

        With ``on_corrupt="skip"`` the next intact image takes the place of a damaged one.
        """
        for step in range(len(self.paths)):
            at = (index + step) % len(self.paths)
            if at in self._broken:
                continue
            try:
                return self._load(self.paths[at])
            except io.ImageError as error:
                self._unfit(error)
                self._broken.add(at)
        raise DataError(f"none of {len(self.paths)} images can be decoded")

    def _unfit(self, error: ValueError) -> None:
        if self.on_corrupt == "stop":
            raise DataError(str(error)) from error
        _warn(f"skipped: {error}")

    def _load(self, path: Path) -> np.ndarray:
        copy = self._copy.get(path)
        if copy is None:
            return to_rgb(io.read(path))
        if not copy.exists():
            _save(copy, to_rgb(io.read(path)))
        return _mapped(copy)


def intact(paths: Sequence[Path], cache: str | Path | None = None) -> list[Path]:
    """Those of ``paths`` that can be decoded; a warning names each of the others."""
    return ImageFolder(paths, cache, on_corrupt="skip", decode=True).paths


@cache
def _warn(message: str) -> None:
    """Logs a warning, the same one once: every set of a run looks at its files anew."""
    log.warning(message)


@lru_cache(maxsize=128)  # each holds a file open
def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")


def _cached_name(path: Path) -> str:
    status = path.stat()
    key = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    return f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"


def _save(path: Path, array: np.ndarray) -> None:
    data = BytesIO()
    np.save(data, array)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data.getvalue())
    except OSError as error:
        raise DataError(f"cannot write the image cache {path.parent}: {error.strerror or error}") from error
