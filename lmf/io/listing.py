"""Lists the picture files below a folder."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

from lmf.errors import reason
from lmf.io.formats import SUFFIXES, ImageError


def list_pictures(root: str | Path) -> list[Path]:
    """Return all picture files below ``root``, at any depth, sorted by path.

    Symbolic links are followed. A folder that several links lead to is listed once, under its own path if that is below
    ``root``, so that loops end. Hidden files and folders are left out.

    Raises:
        ImageError: if a folder cannot be read.
    """
    found, seen = [], set()
    folders = deque([Path(root)])
    while folders:
        folder = folders.popleft()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as scan:
                entries = [entry for entry in scan if not entry.name.startswith(".")]
        except OSError as error:
            raise ImageError(f"cannot list {folder}: {reason(error)}") from error
        for entry in entries:
            path = folder / entry.name
            if entry.is_dir():  # links last, so that a folder's own path comes first
                (folders.append if entry.is_symlink() else folders.appendleft)(path)
            elif path.suffix.lower() in SUFFIXES and entry.is_file():
                found.append(path)
    return sorted(found)
