"""Downloads that resume and archives that stay in their folder."""

from __future__ import annotations

import hashlib
import http.client
import os
import stat
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from lmf.data.settings import DataError
from lmf.io.files import locked, making_folder

_CHUNK = 1 << 20
_TIMEOUT = 30  # seconds without a byte


def fetch_archive(url: str, root: Path, folder: str, md5: str | None = None) -> None:
    """Downloads the zip archive at ``url`` and unpacks its folder ``folder`` into ``root``.

    ``root/folder`` appears complete or not at all. An interrupted download continues where it stopped. A process that
    finds another one at it in the same ``root`` waits and then uses what that one has brought.

    Raises:
        DataError: no connection, wrong checksum, an archive that is damaged, lacks the folder or reaches out of it,
            no room. The message names the URL and says how to download it by hand.
    """
    archive = root / PurePosixPath(url).name
    by_hand = f"download it by hand to {archive.absolute()}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root):
            if (root / folder).is_dir():
                return
            ours = not archive.exists()
            if ours:
                download(url, archive, md5)
            else:
                verify(archive, md5)
            unpack(archive, root, folder)
            if ours:
                archive.unlink()
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise DataError(f"cannot download {url}: {getattr(error, 'reason', error)}; {by_hand}") from error
    except OSError as error:
        raise DataError(f"cannot store {url} in {root.absolute()}: {error.strerror or error}") from error


def download(url: str, path: Path, md5: str | None = None) -> None:
    """Downloads ``url`` to ``path``, through ``path`` + ".part", which an earlier attempt may have begun.

    Raises:
        OSError, http.client.HTTPException: no connection, one that ends early, or no room; the part stays.
        DataError: wrong checksum; the part is removed.
    """
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            _store(response, part, have if response.status == 206 else 0, path.name)
    except urllib.error.HTTPError as error:
        if not (have and error.code == 416):  # 416: nothing lies beyond what we have
            raise
    try:
        verify(part, md5)
    except DataError:
        part.unlink()
        raise
    os.replace(part, path)


def _store(response: Any, part: Path, have: int, name: str) -> None:
    """Appends what the server sends to the first ``have`` bytes of ``part``."""
    length = response.headers.get("Content-Length")
    total = have + int(length) if length else None
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with part.open("ab" if have else "wb") as file, Progress(*columns) as progress:
        task = progress.add_task(name, total=total, completed=have)
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            progress.advance(task, len(chunk))
        size = file.tell()
    if total is not None and size < total:
        raise ConnectionError(f"the connection ended after {size} of {total} bytes, try again to go on from there")


def verify(path: Path, md5: str | None) -> None:
    """Raises `DataError` unless the MD5 sum of a file is ``md5``; None accepts any."""
    if md5 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        raise DataError(f"{path} has the MD5 sum {found}, expected {md5}; it is damaged or has been changed")


def unpack(archive: Path, root: Path, folder: str) -> None:
    """Unpacks the folder ``folder`` of a zip archive into ``root``, all of it or nothing.

    Raises:
        DataError: the archive is damaged, lacks the folder, or has members that are links or whose paths are absolute
            or contain "..".
    """
    try:
        with zipfile.ZipFile(archive) as file, making_folder(root / folder) as temporary:
            for member in file.infolist():
                check_member(member, archive)
            inside = [member for member in file.infolist() if member.filename.startswith(f"{folder}/")]
            if not inside:
                raise DataError(f"{archive.name} holds no folder {folder}")
            for member in inside:
                member.filename = member.filename.removeprefix(f"{folder}/")
                if member.filename:
                    file.extract(member, temporary)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{archive} is no intact zip archive ({error}); remove it and try again") from error


def check_member(member: zipfile.ZipInfo, archive: Path) -> None:
    """Raises `DataError` for a member of ``archive`` that would be written outside the folder it is unpacked to."""
    name = PurePosixPath(member.filename.replace("\\", "/"))
    outside = name.is_absolute() or ".." in name.parts or ":" in member.filename
    if outside or stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(f"{archive.name} holds {member.filename!r}, which points out of the archive; not unpacked")
