"""The HTTP server: one page, and the requests that it makes.

No request names a file of the server. A session, a picture and a download are named by random tokens, a method by its
key in a mapping, a static file by its key in another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib import resources

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lmf.errors import UserError, explain
from lmf.web.handlers import Handlers, TooLarge
from lmf.web.methods import Method
from lmf.web.scene import Picture
from lmf.web.security import Guard
from lmf.web.sessions import Busy, Gone, Sessions
from lmf.web.settings import Settings
from lmf.web.turns import Superseded

STATIC = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/zoom.css": ("zoom.css", "text/css; charset=utf-8"),
    "/zoom.js": ("zoom.js", "text/javascript; charset=utf-8"),
    "/view.js": ("view.js", "text/javascript; charset=utf-8"),
    "/server.js": ("server.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


STATUS = {Gone: 404, Busy: 503, TooLarge: 413}


def create_app(
    methods: Mapping[str, Method], picture: Picture | None = None, settings: Settings | None = None
) -> Starlette:
    """Return the ASGI application.

    Args:
        methods: result of `lmf.web.methods`.
        picture: what a page shows first.
        settings: limits.
    """
    settings = settings or Settings()
    handlers = Handlers(Sessions(settings, methods, picture))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = 16 + 4 * settings.sessions
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(handlers.expire)
            yield
            tasks.cancel_scope.cancel()
        handlers.close()

    routes = [
        *(Route(path, static(*file)) for path, file in STATIC.items()),
        Route("/api/session", handlers.open, methods=["POST"]),
        Route("/api/close", handlers.leave, methods=["POST"]),
        Route("/api/picture", handlers.upload, methods=["POST"]),
        Route("/api/preview", handlers.preview),
        Route("/api/frame", handlers.frame, methods=["POST"]),
        Route("/api/download", handlers.start_download, methods=["POST"]),
        Route("/api/download", handlers.download_progress),
        Route("/api/download", handlers.cancel_download, methods=["DELETE"]),
        Route("/file/{name}", handlers.file),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=settings.hosts)],
        exception_handlers={Exception: failed, UserError: refused, Superseded: superseded},
        lifespan=lifespan,
    )


def static(name: str, media_type: str) -> Callable[[Request], Response]:
    """Return an endpoint that serves a file of the package, read once."""
    content = (resources.files("lmf.web") / "static" / name).read_bytes()

    def endpoint(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return endpoint


def refused(request: Request, error: Exception) -> Response:
    """Answer an error that the user can mend."""
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 400)
    return JSONResponse({"error": str(error)}, status_code=status)


def superseded(request: Request, error: Exception) -> Response:
    """Answer a request that a newer one has replaced."""
    return Response(status_code=204)


def failed(request: Request, error: Exception) -> Response:
    """Answer any other error; its traceback goes to the log only."""
    if explain(error) is None:
        return JSONResponse({"error": "the server has a fault; its log shows more"}, status_code=500)
    return JSONResponse({"error": "the server has no memory or disk left for this"}, status_code=507)
