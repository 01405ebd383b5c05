"""Sources of pictures: folders, archives from the web, and pictures that scikit-image contains."""

from __future__ import annotations

import hashlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from lmf.data.download import fetch_archive
from lmf.data.folder import intact, list_images
from lmf.data.settings import DataError, FileSettings

Filter = Callable[[list[Path]], list[Path]]


class Source(ABC):
    """Base class of sets of HR pictures on disk, optionally with LR versions.

    Attributes:
        faults: whether evaluation also measures faults that show on hard edges, see `lmf.metrics.colour_share` and
            `lmf.metrics.raw_max`.
    """

    faults: bool = False

    def prepare(self) -> None:
        """Download the pictures if needed. One process calls this before all processes call `files`."""
        return

    def at(self, scale: float) -> Source:
        """Return the pictures to measure ``scale`` with: the same ones, unless they are made for each scale."""
        return self

    @abstractmethod
    def files(self, usable: Filter = list) -> list[Path]:
        """Return the HR files in a fixed order.

        Args:
            usable: removes the files that cannot be used. A source that selects some of its files, such as one part of
                a split, selects from the remaining ones. Other sources may ignore it.

        Raises:
            DataError: if there are no files. The message says what to do.
        """

    def lr_folder(self, scale: float) -> Path | None:
        """Return the folder of stored LR versions ``NAMEx{scale}.png``, which may not exist, or None."""
        return None


def source_files(source: Source, settings: FileSettings) -> list[Path]:
    """Return the files of ``source``, without damaged ones if ``settings.on_corrupt`` is ``"skip"``.

    Raises:
        DataError: if there are no files.
    """
    if settings.on_corrupt == "stop":
        return source.files()
    return source.files(lambda paths: intact(paths, settings.cache))


class Folder(Source):
    """All images in a folder and its subfolders, or one part of a split of them.

    Args:
        root: the folder.
        lr: folder with the stored LR versions, in ``X2``, ``X3``, ...; None if there are none.
        part: ``"all"``, or one part of a split by hashes of the names: ``"val"`` is the share ``fraction`` of the
            usable images (at least one), ``"train"`` is the rest. The split does not depend on the location of the
            folder.
        fraction: share of the validation part, between 0 and 1.

    Raises:
        DataError: if a setting is out of range.
    """

    def __init__(
        self,
        root: str | Path,
        lr: str | Path | None = None,
        part: Literal["all", "train", "val"] = "all",
        fraction: float = 0.1,
    ) -> None:
        if part not in ("all", "train", "val"):
            raise DataError(f"part must be 'all', 'train' or 'val', got {part!r}")
        if not isinstance(fraction, int | float):
            raise DataError(f"fraction must be a number, got {fraction!r}")
        if not 0 < fraction < 1:
            raise DataError(f"fraction must be between 0 and 1, got {fraction}")
        self.root = Path(root)
        self.lr = Path(lr) if lr is not None else None
        self.part, self.fraction = part, fraction

    def files(self, usable: Filter = list) -> list[Path]:
        """Return the images of this part, sorted by path; see `Source.files`."""
        paths = list_images(self.root)
        if self.part == "all":
            return paths
        paths = usable(paths)
        if len(paths) < 2:
            raise DataError(
                f"{self.root.absolute()} contains only one usable image, too few for a split; give a folder for "
                "validation"
            )
        validation = set(sorted(paths, key=self._hash)[: max(1, int(len(paths) * self.fraction))])
        return [path for path in paths if (path in validation) == (self.part == "val")]

    def _hash(self, path: Path) -> str:
        """Return a hash of the path relative to the folder."""
        return hashlib.sha256(path.relative_to(self.root).as_posix().encode()).hexdigest()

    def lr_folder(self, scale: float) -> Path | None:
        """Return the folder ``X{scale}`` in ``lr``, see `Source.lr_folder`."""
        return self.lr / f"X{scale:g}" if self.lr is not None else None


def split_folder(
    part: Literal["train", "val"],
    root: str | Path | None = None,
    val_root: str | Path | None = None,
    fraction: float = 0.1,
) -> Folder:
    """Return the training or validation pictures of the data set ``data=folder``.

    Args:
        part: ``"train"`` or ``"val"``.
        root: folder of training pictures. None is not allowed and gives an error message.
        val_root: folder of validation pictures; None holds back some pictures of ``root``.
        fraction: share of ``root`` to hold back, between 0 and 1; at least one picture.

    Raises:
        DataError: if ``root`` is None or ``fraction`` is out of range.
    """
    if root is None:
        raise DataError("which pictures? give their folder: data.root=FOLDER")
    if val_root is None:
        return Folder(root, part=part, fraction=fraction)
    return Folder(val_root if part == "val" else root)


class Bundled(Source):
    """Photographs that scikit-image contains, to try everything without a download.

    Both pictures of the stereo pair are in the same part.

    Args:
        part: ``"train"`` (10 pictures) or ``"val"`` (2 other pictures).

    Raises:
        DataError: if ``part`` is unknown.
    """

    NAMES: Mapping[str, tuple[str, ...]] = {
        "train": (
            "motorcycle_left.png",
            "motorcycle_right.png",
            "coffee.png",
            "rocket.jpg",
            "hubble_deep_field.jpg",
            "retina.jpg",
            "camera.png",
            "brick.png",
            "grass.png",
            "gravel.png",
        ),
        "val": ("astronaut.png", "chelsea.png"),
    }

    def __init__(self, part: Literal["train", "val"]) -> None:
        if part not in self.NAMES:
            raise DataError(f"part must be 'train' or 'val', got {part!r}")
        self.part = part

    def files(self, usable: Filter = list) -> list[Path]:
        """Return the pictures of this part, in the order of `NAMES`.

        Raises:
            DataError: if scikit-image or some of its pictures are missing.
        """
        package = importlib.util.find_spec("skimage")
        if package is None or package.origin is None:
            raise DataError("the bundled pictures need scikit-image, which is not installed: pip install 'lmf[train]'")
        folder = Path(package.origin).parent / "data"
        paths = [folder / name for name in self.NAMES[self.part]]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise DataError(
                f"the installed scikit-image lacks {', '.join(missing)} in {folder}; install scikit-image >= 0.25 from "
                "a wheel, or use another folder of pictures (data=folder)"
            )
        return paths


class Archive(Folder):
    """A folder of pictures from a zip archive on the web, such as DIV2K, which is downloaded on first use.

    Args:
        root: folder to unpack into.
        folder: name of the folder in the archive.
        url: address of the archive.
        md5: MD5 sum of the archive; None accepts any.
        download: whether the archive may be downloaded.
        lr: folder with the stored LR versions, in ``X2``, ``X3``, ...; None if there are none.
    """

    def __init__(
        self,
        root: str | Path,
        folder: str,
        url: str,
        md5: str | None = None,
        download: bool = True,
        lr: str | Path | None = None,
    ) -> None:
        super().__init__(Path(root) / folder, lr)
        self.url, self.md5, self.download = url, md5, download

    def prepare(self) -> None:
        """Download and unpack the archive, unless the folder exists.

        Raises:
            DataError: if this fails.
        """
        if self.download and not self.root.is_dir():
            fetch_archive(self.url, self.root.parent, self.root.name, self.md5)

    def files(self, usable: Filter = list) -> list[Path]:
        """Return all images of the folder, sorted by path.

        Raises:
            DataError: if the folder does not exist or contains no image.
        """
        if not self.root.is_dir():
            where = self.root.parent.absolute()
            raise DataError(f"no folder {self.root.absolute()}; download {self.url} and unpack it into {where}")
        return super().files(usable)
