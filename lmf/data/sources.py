"""Where pictures come from."""

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
    """A set of HR pictures on disk, and possibly LR versions of them."""

    def prepare(self) -> None:
        """Downloads the pictures if the source can; one process calls it before any calls `files`."""
        return

    @abstractmethod
    def files(self, usable: Filter = list) -> list[Path]:
        """The HR files, in a fixed order.

        Args:
            usable: returns the files that can be used. A source that chooses some of its files, as one side of a
                split does, chooses among these; other sources may ignore it.

        Raises:
            DataError: there are none; the message says what to do.
        """

    def lr_folder(self, scale: float) -> Path | None:
        """The folder of stored LR versions ``NAMEx{scale}.png``, which need not exist; None if there are none."""
        return None


def source_files(source: Source, settings: FileSettings) -> list[Path]:
    """The files of ``source``, chosen among those that can be decoded if damaged ones are to be skipped."""
    if settings.on_corrupt == "stop":
        return source.files()
    return source.files(lambda paths: intact(paths, settings.cache))


class Folder(Source):
    """All images below a folder, or one side of a split of them.

    Args:
        root: the folder.
        lr: folder with ``X2``, ``X3``, ... of stored LR versions.
        part: ``"all"``, or one side of a split by hashes of the names: ``"val"`` is ``fraction`` of the usable images
            (at least one), ``"train"`` the others. The split does not depend on where the folder lies.
        fraction: see ``part``.

    Raises:
        DataError: settings out of range.
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
        """The images of this side, sorted by path; see `Source.files`."""
        paths = list_images(self.root)
        if self.part == "all":
            return paths
        paths = usable(paths)
        if len(paths) < 2:
            raise DataError(
                f"{self.root.absolute()} holds one usable image, too few to split; give a folder for validation"
            )
        held = set(sorted(paths, key=self._hash)[: max(1, int(len(paths) * self.fraction))])
        return [path for path in paths if (path in held) == (self.part == "val")]

    def _hash(self, path: Path) -> str:
        return hashlib.sha256(path.relative_to(self.root).as_posix().encode()).hexdigest()

    def lr_folder(self, scale: float) -> Path | None:
        """``X{scale}`` below ``lr``; see `Source.lr_folder`."""
        return self.lr / f"X{scale:g}" if self.lr is not None else None


def split_folder(
    part: Literal["train", "val"],
    root: str | Path | None = None,
    val_root: str | Path | None = None,
    fraction: float = 0.1,
) -> Folder:
    """The side ``part`` of a folder of pictures that may have another folder for validation beside it.

    Args:
        part: ``"train"`` or ``"val"``.
        root: the pictures to train on; required, None only gives a better message.
        val_root: the pictures to validate on; None holds back ``fraction`` of those in ``root``.
        fraction: between 0 and 1; at least one picture is held back.

    Raises:
        DataError: no folder is given.
    """
    if root is None:
        raise DataError("which pictures? give their folder: data.root=FOLDER")
    if val_root is None:
        return Folder(root, part=part, fraction=fraction)
    return Folder(val_root if part == "val" else root)


class Bundled(Source):
    """Photographs that come with scikit-image: enough to try everything without a download.

    The two sides share no picture; both pictures of the stereo pair are on one side.

    Args:
        part: ``"train"`` (10 pictures) or ``"val"`` (2).
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
        """The pictures of this side, in the order of `NAMES`."""
        package = importlib.util.find_spec("skimage")
        if package is None or package.origin is None:
            raise DataError("the bundled pictures are those of scikit-image, which is not installed")
        folder = Path(package.origin).parent / "data"
        paths = [folder / name for name in self.NAMES[self.part]]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise DataError(
                f"this scikit-image lacks {', '.join(missing)} in {folder}; install scikit-image >= 0.25 from a wheel, "
                "or train on a folder of your own (data=folder)"
            )
        return paths


class Archive(Folder):
    """A folder of pictures from a zip archive on the web, such as DIV2K; downloaded and unpacked on first use.

    Args:
        root: where to unpack.
        folder: the folder that the archive holds.
        url: address of the archive.
        md5: checksum of the archive; None accepts any.
        download: whether the archive may be downloaded.
        lr: folder with ``X2``, ``X3``, ... of stored LR versions.
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
        """Downloads and unpacks the archive unless the folder exists."""
        if self.download and not self.root.is_dir():
            fetch_archive(self.url, self.root.parent, self.root.name, self.md5)

    def files(self, usable: Filter = list) -> list[Path]:
        """All images of the folder, sorted by path."""
        if not self.root.is_dir():
            where = self.root.parent.absolute()
            raise DataError(f"no folder {self.root.absolute()}; download {self.url} and unpack it into {where}")
        return super().files(usable)
