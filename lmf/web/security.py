"""Protection against requests that other web sites make through the user's browser."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Middleware that refuses requests for other hosts or from other sites, and sets the headers that bind the page.

    A site whose name was made to resolve to this machine (DNS rebinding) sends its own name in ``Host``. A request that
    another site makes names that site in ``Origin``.

    Args:
        app: the application.
        hosts: names that ``Host`` may have, besides ``localhost`` and IP addresses.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = ()) -> None:
        self.app = app
        self.hosts = {"localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # there are no web sockets
            await self.app(scope, receive, send)
            return

        async def bound(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        reason = self.refusal(Headers(scope=scope), scope["method"], scope["path"])
        if reason is None:
            await self.app(scope, receive, bound)
        else:
            await JSONResponse({"error": reason}, status_code=403)(scope, receive, bound)

    def refusal(self, headers: Headers, method: str, path: str) -> str | None:
        """Return why a request is refused; None if it is not."""
        host = headers.get("host", "")
        name = host_name(host)
        if name not in self.hosts and not is_address(name):
            return f"the host {name!r:.80} is not served here; start the server with --allow-host {name:.60}"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return "requests from other sites are refused"
        link = method == "GET" and path == "/"
        if not link and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return "requests from other sites are refused"
        return None


def host_name(host: str) -> str:
    """Return the name in a ``Host`` header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def is_address(name: str) -> bool:
    """Return whether ``name`` is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
