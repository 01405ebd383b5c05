"""Starts the server of the page."""

from __future__ import annotations

import logging
import os
import socket
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import torch
import uvicorn

from lmf.errors import UserError, reason
from lmf.web.methods import methods
from lmf.web.scene import Picture
from lmf.web.security import is_address
from lmf.web.server import create_app
from lmf.web.settings import Settings

log = logging.getLogger(__name__)

HOST, PORT = "127.0.0.1", 8000


def serve(
    photo: str | os.PathLike[str] | None,
    models: Sequence[str | os.PathLike[str]],
    *,
    host: str = HOST,
    port: int = PORT,
    browser: bool = True,
    device: torch.device | None = None,
    trust: Sequence[str] = (),
    settings: Settings | None = None,
) -> None:
    """Serve the page until the process is interrupted.

    Args:
        photo: the picture that the page shows first; None waits for one to be dropped.
        models: what `lmf.load` accepts; the page starts with the first.
        host: address to listen on. Only ``127.0.0.1`` keeps other machines out.
        port: port to listen on; 0 takes a free one.
        browser: whether to open the page in the user's browser.
        device: device of the models, the CPU by default.
        trust: see `lmf.load`.
        settings: limits.

    Raises:
        UserError: if the picture or a model cannot be read, or the address cannot be used.
    """
    settings = settings or Settings()
    found = methods(models, device or torch.device("cpu"), trust)
    next(iter(found.values())).warm_up()
    picture = None
    if photo is not None:
        path = Path(photo).expanduser()
        picture = Picture.read(path, path.name, "first", settings)
    listener = listen(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"
    app = create_app(found, picture, settings)
    config = uvicorn.Config(app, log_level="warning", server_header=False, ws="none", timeout_graceful_shutdown=3)
    log.info(f"{url} (Ctrl-C ends)")
    if host not in ("127.0.0.1", "::1", "localhost"):
        log.warning(f"everybody who reaches {host} can use the page; 127.0.0.1 keeps other machines out")
    if browser:
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on ``host`` and ``port``.

    Raises:
        UserError: if that is not possible, for example because the port is in use.
    """
    if not 0 <= port < 65536:
        raise UserError(f"port must be from 0 to 65535, got {port}")
    family = socket.AF_INET6 if ":" in host and is_address(host) else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else reason(error)  # its own text repeats the address
        raise UserError(f"cannot listen on {host}, port {port} ({why}); port 0 takes a free one") from error
    # Connections inherit it. Without it the body of a short answer can wait 40 ms for the receipt of its header.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
