"""Which pictures a folder holds."""

from __future__ import annotations

import os
from pathlib import Path

from lmf.io.codecs import ImageError
from lmf.io.pictures import SUFFIXES


def list_pictures(root: str | Path) -> list[Path]:
    """All files below ``root`` with a picture's suffix, at any depth, sorted by path.

    Links to folders are followed. A folder that can be reached in several ways is listed once, in preference by the
    way without links, so links that form a loop do no harm. Hidden files and folders are left out.

    Raises:
        ImageError: a folder that cannot be read.
    """
    found: list[Path] = []
    seen: set[Path] = set()
    folders, links = [Path(root)], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)  # every real folder before the first link
        real = folder.resolve()
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise ImageError(f"cannot list the folder {folder}: {error.strerror or error}") from error
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(path)
            elif path.suffix.lower() in SUFFIXES and entry.is_file():
                found.append(path)
    return sorted(found)
