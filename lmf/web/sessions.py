"""What the server keeps for each open page, and for how long."""

from __future__ import annotations

import secrets
import threading
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from lmf.errors import UserError
from lmf.inference.stores import Cache
from lmf.web.downloads import Download
from lmf.web.methods import Method
from lmf.web.scene import Picture, Scene
from lmf.web.settings import Settings
from lmf.web.turns import Turns


class Gone(UserError):
    """Raised if a session does not exist, for example because it has expired."""


class Busy(UserError):
    """Raised if the server has no room for another session."""


@dataclass
class Session:
    """One open page.

    Attributes:
        name: unguessable; whoever knows it acts for the page.
        picture: the picture that it shows.
        scenes: the picture as each method shows it, by the name of the method.
        newest: number of the last frame that each part of the page has asked for.
        download: the file it is writing or has written.
        seen: time of the last request.
    """

    name: str
    picture: Picture | None
    scenes: Mapping[str, Scene] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    download: Download | None = None
    seen: float = field(default_factory=time.monotonic)

    def close(self) -> None:
        """Stop what it is doing and free what it holds."""
        self.show(None)
        if self.download is not None:
            self.download.cancel()

    def show(self, picture: Picture | None) -> None:
        """Replace the picture; frames of the former one are not wanted any more."""
        self.picture = picture
        for part in self.newest:
            self.newest[part] += 1
        for scene in self.scenes.values():
            scene.wake()
        self.scenes = {}


class Sessions:
    """All open pages.

    Args:
        settings: limits.
        methods: the methods by name.
        picture: what a new page shows, shared by all pages.
    """

    def __init__(self, settings: Settings, methods: Mapping[str, Method], picture: Picture | None = None) -> None:
        self.settings, self.methods, self.picture = settings, methods, picture
        self.cache = Cache(settings.latents)
        self.frames, self.slow = Turns(), Turns()
        self.painter = ThreadPoolExecutor(1, "lmf-frames")  # each thread would have its own pool of OpenMP threads
        self._open: dict[str, Session] = {}
        self._scenes: weakref.WeakValueDictionary[tuple[int, str], Scene] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def open(self) -> Session:
        """Return a new session.

        Raises:
            Busy: if there are too many.
        """
        self.expire()
        with self._lock:
            if len(self._open) >= self.settings.sessions:
                raise Busy(f"{len(self._open)} pages are open, which is the limit; try again later")
            session = Session(secrets.token_urlsafe(24), self.picture)
            self._open[session.name] = session
            return session

    def get(self, name: str) -> Session:
        """Return the session called ``name``.

        Raises:
            Gone: if there is none.
        """
        session = self._open.get(name)
        if session is None:
            raise Gone("this page was idle for too long or the server has restarted; reload the page")
        session.seen = time.monotonic()
        return session

    def close(self, name: str) -> None:
        """Free a session."""
        with self._lock:
            session = self._open.pop(name, None)
        if session is not None:
            session.close()
            self.frames.forget(name)
            self.slow.forget(name)

    def download(self, name: str) -> Download:
        """Return the finished download called ``name``.

        Raises:
            Gone: if there is none.
        """
        for session in list(self._open.values()):
            download = session.download
            if download is not None and download.name == name and download.done:
                return download
        raise Gone("there is no such download")

    def close_all(self) -> None:
        """Free all sessions and stop."""
        for name in list(self._open):
            self.close(name)
        self.painter.shutdown(wait=False, cancel_futures=True)

    def expire(self) -> None:
        """Free the sessions that were idle for too long."""
        deadline = time.monotonic() - self.settings.idle
        for name, session in list(self._open.items()):
            if session.seen < deadline:
                self.close(name)

    def scene(self, session: Session, method: str) -> Scene:
        """Return the picture of ``session`` as ``method`` shows it. Sessions that show the same picture share it.

        Raises:
            UserError: if there is no picture or no such method.
        """
        if session.picture is None:
            raise UserError("there is no picture yet; open one")
        if method not in self.methods:
            raise UserError(f"method must be one of {', '.join(self.methods)}, got {method!r:.60}")
        with self._lock:
            key = (id(session.picture), method)
            scene = self._scenes.get(key)
            if scene is None:
                scene = Scene(session.picture, self.methods[method], self.cache, self.slow)
                self._scenes[key] = scene
            session.scenes = {**session.scenes, method: scene}  # a new one: others may be looking at it
            return scene
