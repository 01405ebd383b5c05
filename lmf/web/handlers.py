"""The endpoints of the page's requests."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

import lmf
from lmf import io
from lmf.errors import UserError
from lmf.web import messages
from lmf.web.downloads import Download
from lmf.web.scene import Picture
from lmf.web.sessions import Session, Sessions
from lmf.web.settings import SCALES

PATIENCE = 1.0  # seconds that a frame waits for features before the page is told how far they are


class TooLarge(UserError):
    """Raised if the body of a request is too long."""


class Handlers:
    """The endpoints of the API.

    Args:
        sessions: the open pages.
    """

    def __init__(self, sessions: Sessions) -> None:
        self.sessions, self.settings = sessions, sessions.settings

    async def expire(self) -> None:
        """Free idle sessions, for ever."""
        while True:
            await anyio.sleep(min(30.0, self.settings.idle / 2))
            await run_in_threadpool(self.sessions.expire)

    def close(self) -> None:
        """Free all sessions."""
        self.sessions.close_all()

    def session(self, request: Request) -> Session:
        """Return the session that a request names in its header.

        Raises:
            Gone: if there is none.
        """
        return self.sessions.get(request.headers.get("lmf-session", ""))

    def open(self, request: Request) -> Response:
        """Open a session and describe what the server offers."""
        session = self.sessions.open()
        limits = {"bytes": self.settings.max_bytes, "pixels": self.settings.max_pixels, "view": self.settings.max_view}
        return JSONResponse(
            {
                "session": session.name,
                "version": lmf.__version__,
                "methods": [{"name": name, "levels": method.has_tables} for name, method in
                            self.sessions.methods.items()],
                "formats": [suffix[1:] for suffix in io.WRITABLE],
                "lossy": [suffix[1:] for suffix in io.WRITABLE if io.is_lossy(suffix)],
                "scales": SCALES,
                "limits": limits,
                "picture": described(session.picture),
            }
        )  # fmt: skip

    async def leave(self, request: Request) -> Response:
        """Free the session of a page that is closed; such a request can only send its name in the body."""
        name = (await body(request, 200)).decode(errors="replace")
        await run_in_threadpool(self.sessions.close, name)
        return Response(status_code=204)

    async def upload(self, request: Request) -> Response:
        """Show the picture in the body of the request."""
        session = self.session(request)
        name = unquote(request.headers.get("lmf-name", ""))[-200:]
        name = "".join(c for c in name.replace("\\", "/").rpartition("/")[2] if c.isprintable()) or "picture"
        with tempfile.NamedTemporaryFile(prefix="lmf-upload-") as file:
            size = 0
            declared = request.headers.get("content-length", "0")
            if declared.isdecimal():
                self.check_length(name, int(declared))
            async for chunk in request.stream():
                size += len(chunk)
                self.check_length(name, size)
                file.write(chunk)
            file.flush()
            picture = await run_in_threadpool(self.read, Path(file.name), name, session)
        session.show(picture)
        return JSONResponse({"picture": described(picture)})

    def check_length(self, name: str, size: int) -> None:
        """Check the length of an uploaded file.

        Raises:
            TooLarge: if it exceeds the limit.
        """
        if size > self.settings.max_bytes:
            limit = self.settings.max_bytes / 2**20
            raise TooLarge(f"{name}: the file is larger than the limit of {limit:.3g} MiB")

    def read(self, path: Path, name: str, session: Session) -> Picture:
        """Read an uploaded picture, one at a time because it takes memory."""
        with self.sessions.slow.turn(session.name):
            return Picture.read(path, name, session.name, self.settings)

    def preview(self, request: Request) -> Response:
        """Send the picture, reduced if it is large."""
        picture = self.session(request).picture
        if picture is None:
            raise UserError("there is no picture yet; open one")
        return Response(picture.preview, media_type="image/png")

    async def frame(self, request: Request) -> Response:
        """Send a view; see `lmf.web.messages` for the form of the request and the answer."""
        session = self.session(request)
        asked = messages.View.parse(await json_of(request), self.settings)
        session.newest[asked.part] = max(asked.number, session.newest.get(asked.part, -1))  # in the only event loop
        self.sessions.frames.wake()
        for scene in session.scenes.values():
            scene.wake()
        return await run_in_threadpool(self.render, session, asked)

    def render(self, session: Session, asked: messages.View) -> Response:
        """Render the view that ``asked`` describes when it is the turn of ``session``."""

        def wanted() -> bool:
            return session.newest[asked.part] == asked.number

        scene = self.sessions.scene(session, asked.method)
        size, view = asked.within(scene.picture.size)
        if not scene.wait(size, view, PATIENCE, wanted):
            return JSONResponse({"encoded": scene.encoded}, status_code=202)
        with self.sessions.frames.turn(session.name, wanted):
            frame = self.sessions.painter.submit(scene.frame, asked.scale, view, asked.budget, asked.held).result()
        content, facts = messages.answer(frame, asked.raw)
        facts["encoded"] = scene.encoded
        return Response(content, headers={"lmf-frame": json.dumps(facts)}, media_type="application/octet-stream")

    async def start_download(self, request: Request) -> Response:
        """Begin to write a file; an earlier one is dropped."""
        session = self.session(request)
        asked = await json_of(request)
        return await run_in_threadpool(self.begin, session, asked)

    def begin(self, session: Session, asked: Mapping[str, Any]) -> Response:
        """Begin to write the file that ``asked`` describes."""
        scene = self.sessions.scene(session, messages.text(asked, "method"))
        order = messages.order(asked, scene.picture.size, self.settings)
        if session.download is not None:
            session.download.cancel()
            session.download = None
        session.download = Download(scene, order, session.name, self.sessions.slow, self.settings.max_output)
        return JSONResponse({"progress": 0})

    def download_progress(self, request: Request) -> Response:
        """Say how far the download is, and where it is when it is done."""
        session = self.session(request)
        download = session.download
        if download is None:
            raise UserError("there is no download")
        if download.error is not None:
            raise UserError(download.error)
        where = f"/file/{download.name}" if download.done else None
        return JSONResponse({"progress": download.progress, "file": where})

    def cancel_download(self, request: Request) -> Response:
        """Stop the download."""
        session = self.session(request)
        if session.download is not None:
            session.download.cancel()
            session.download = None
        return Response(status_code=204)

    def file(self, request: Request) -> Response:
        """Send the file of the download with this name."""
        download = self.sessions.download(request.path_params["name"])
        headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(download.filename)}"}
        return FileResponse(download.path, headers=headers)


def described(picture: Picture | None) -> dict[str, Any] | None:
    """Return what the page needs to know about a picture."""
    return None if picture is None else {"name": picture.name, "height": picture.size[0], "width": picture.size[1]}


async def body(request: Request, limit: int) -> bytes:
    """Return the body of a request.

    Raises:
        TooLarge: if it is longer than ``limit`` bytes.
    """
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > limit:
            raise TooLarge(f"the request is longer than {limit} bytes")
    return content


async def json_of(request: Request) -> Mapping[str, Any]:
    """Return the JSON object in the body of a request.

    Raises:
        UserError: if it is none.
    """
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise UserError("the request must be of type application/json")
    try:
        content = json.loads(await body(request, 10_000))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError("the request is not JSON") from error
    if not isinstance(content, dict):
        raise UserError("the request must be a JSON object")
    return content
