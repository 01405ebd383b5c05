"""Downloads files with resuming, and unpacks archives safely."""

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
    """Download a zip archive and unpack one of its folders.

    ``root/folder`` is created completely or not at all. An interrupted download is resumed. If another process is
    downloading to the same ``root``, this process waits for it and uses its result.

    Args:
        url: address of the archive.
        root: folder to unpack into.
        folder: name of the folder in the archive.
        md5: MD5 sum of the archive; None accepts any.

    Raises:
        DataError: if the download fails, the checksum is wrong, the archive is damaged or unsafe or does not contain
            the folder, or the disk is full. The message names the URL and says how to download it by hand.
    """
    archive = root / PurePosixPath(url).name
    by_hand = f"download it by hand to {archive.absolute()}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root):
            if (root / folder).is_dir():
                return
            downloaded = not archive.exists()
            if downloaded:
                download(url, archive, md5)
            else:
                verify(archive, md5)
            unpack(archive, root, folder)
            if downloaded:
                archive.unlink()
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise DataError(f"cannot download {url}: {getattr(error, 'reason', error)}; {by_hand}") from error
    except OSError as error:
        raise DataError(f"cannot store {url} in {root.absolute()}: {error.strerror or error}") from error


def download(url: str, path: Path, md5: str | None = None) -> None:
    """Download ``url`` to ``path``.

    The data is first written to ``path`` + ".part", which may exist from an earlier attempt and is then continued.

    Args:
        url: address of the file.
        path: file to write.
        md5: expected MD5 sum; None accepts any.

    Raises:
        OSError, http.client.HTTPException: if the connection fails or ends early, or the disk is full. The partial file
            is kept.
        DataError: if the checksum is wrong. The partial file is removed.
    """
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            _store(response, part, have if response.status == 206 else 0, path.name)
    except urllib.error.HTTPError as error:
        if not (have and error.code == 416):  # 416: the partial file is already complete
            raise
    try:
        verify(part, md5)
    except DataError:
        part.unlink()
        raise
    os.replace(part, path)


def _store(response: Any, part: Path, have: int, name: str) -> None:
    """Append the response of the server to the first ``have`` bytes of ``part``."""
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
        raise ConnectionError(f"the connection ended after {size} of {total} bytes, try again to resume the download")


def verify(path: Path, md5: str | None) -> None:
    """Check the MD5 sum of a file; None accepts any.

    Raises:
        DataError: if the sum is not ``md5``.
    """
    if md5 is None:
        return
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "md5").hexdigest()
    if actual != md5:
        raise DataError(f"{path} has the MD5 sum {actual}, expected {md5}; it is damaged or has been changed")


def unpack(archive: Path, root: Path, folder: str) -> None:
    """Unpack the folder ``folder`` of a zip archive into ``root``, completely or not at all.

    Raises:
        DataError: if the archive is damaged, does not contain the folder, or has members that are links or whose paths
            are absolute or contain "..".
    """
    try:
        with zipfile.ZipFile(archive) as file, making_folder(root / folder) as temporary:
            for member in file.infolist():
                check_member(member, archive)
            inside = [member for member in file.infolist() if member.filename.startswith(f"{folder}/")]
            if not inside:
                raise DataError(f"{archive.name} contains no folder {folder}")
            for member in inside:
                member.filename = member.filename.removeprefix(f"{folder}/")
                if member.filename:
                    file.extract(member, temporary)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{archive} is not an intact zip archive ({error}); remove it and try again") from error


def check_member(member: zipfile.ZipInfo, archive: Path) -> None:
    """Check that a member of ``archive`` stays in the folder that it is unpacked to.

    Raises:
        DataError: if it does not.
    """
    name = PurePosixPath(member.filename.replace("\\", "/"))
    outside = name.is_absolute() or ".." in name.parts or ":" in member.filename
    if outside or stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(f"{archive.name} contains {member.filename!r}, which points out of the archive; not unpacked")
