import hashlib
import io as stdio
import os
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from lmf import io
from lmf.data import Archive, DataError
from lmf.data.download import download, fetch_archive


class Server(ThreadingHTTPServer):
    """Serves ``data`` at every path, with ranges; ``breaks`` ends the next response after this many bytes."""

    data = b""
    breaks: int | None = None
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/PHOTOS.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if start >= len(self.server.data):
            self.send_error(416 if self.server.data else 404)
            return
        body = self.server.data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.breaks])
        self.server.breaks = None

    def log_message(self, format: str, *args: object) -> None:
        pass


def archive(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    data = stdio.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for member in members:
            file.writestr(*member)
    return data.getvalue()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    io.write(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    png = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").unlink()
    with Server() as running:
        running.data = archive(("PHOTOS/a.png", png), ("PHOTOS/b.png", png))
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def test_fresh(server: Server, tmp_path: Path) -> None:
    source = Archive(tmp_path / "new", "PHOTOS", server.url, md5(server.data))
    source.prepare()
    assert [path.name for path in source.files()] == ["a.png", "b.png"]
    assert os.listdir(tmp_path / "new") == ["PHOTOS"]
    source.prepare()
    assert len(server.asked) == 1


def test_two_at_once_download_once(server: Server, tmp_path: Path) -> None:
    start = threading.Barrier(4)

    def prepare() -> None:
        start.wait()
        Archive(tmp_path, "PHOTOS", server.url, md5(server.data)).prepare()

    with ThreadPoolExecutor(4) as pool:
        for made in [pool.submit(prepare) for _ in range(4)]:
            made.result()
    assert len(server.asked) == 1
    assert sorted(os.listdir(tmp_path / "PHOTOS")) == ["a.png", "b.png"]
    assert os.listdir(tmp_path) == ["PHOTOS"]


@pytest.mark.parametrize("ranges", [True, False])
def test_resumed(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.breaks, server.ranges = 1000, ranges
    with pytest.raises(DataError, match=rf"after 1000 of {len(server.data)} bytes.*by hand to {tmp_path}/PHOTOS.zip"):
        fetch_archive(server.url, tmp_path, "PHOTOS")
    assert os.listdir(tmp_path) == ["PHOTOS.zip.part"]
    fetch_archive(server.url, tmp_path, "PHOTOS", md5(server.data))
    assert server.asked == [None, "bytes=1000-"]
    assert sorted(os.listdir(tmp_path / "PHOTOS")) == ["a.png", "b.png"]


def test_a_complete_part_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "PHOTOS.zip.part").write_bytes(server.data)
    download(server.url, tmp_path / "PHOTOS.zip", md5(server.data))
    assert (tmp_path / "PHOTOS.zip").read_bytes() == server.data


def test_wrong_checksum(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"MD5 sum {md5(server.data)}, expected 0123"):
        fetch_archive(server.url, tmp_path, "PHOTOS", "0123")
    assert os.listdir(tmp_path) == []


def test_an_archive_brought_by_hand_is_used_and_kept(tmp_path: Path, server: Server) -> None:
    (tmp_path / "PHOTOS.zip").write_bytes(server.data)
    fetch_archive(server.url, tmp_path, "PHOTOS", md5(server.data))
    assert server.asked == []
    assert sorted(os.listdir(tmp_path)) == ["PHOTOS", "PHOTOS.zip"]
    with pytest.raises(DataError, match="MD5"):
        fetch_archive(server.url, tmp_path, "OTHER", "0123")


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("PHOTOS/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    "member", [lambda: "../out.png", lambda: "/out.png", lambda: "PHOTOS/../../out.png", lambda: "..\\out.png", link]
)
def test_archives_that_reach_out_are_refused(
    server: Server, tmp_path: Path, member: Callable[[], str | zipfile.ZipInfo]
) -> None:
    server.data = archive(("PHOTOS/a.png", b"x"), (member(), b"/etc/passwd"))
    with pytest.raises(DataError, match="points out of the archive"):
        fetch_archive(server.url, tmp_path / "root", "PHOTOS")
    assert os.listdir(tmp_path / "root") == ["PHOTOS.zip"]
    assert os.listdir(tmp_path) == ["root"]


@pytest.mark.parametrize("data", [b"no zip archive", archive(("OTHER/a.png", b"x"))])
def test_unfit_archives(server: Server, tmp_path: Path, data: bytes) -> None:
    server.data = data
    with pytest.raises(DataError, match=r"PHOTOS.zip (is not an intact zip|contains no folder PHOTOS)"):
        fetch_archive(server.url, tmp_path, "PHOTOS")
    assert os.listdir(tmp_path) == ["PHOTOS.zip"]


def test_offline(server: Server, tmp_path: Path) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match=rf"cannot download {server.url}: .*; download it by hand to {tmp_path}"):
        fetch_archive(server.url, tmp_path, "PHOTOS")


def test_not_found(tmp_path: Path, server: Server) -> None:
    server.data = b""
    with pytest.raises(DataError, match=r"cannot download .*PHOTOS\.zip: Not Found"):
        fetch_archive(server.url, tmp_path, "PHOTOS")
