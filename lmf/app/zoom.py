"""The subcommand ``lmf zoom``, which does the same as ``task=zoom`` without Hydra; needs the extra ``web``."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import lmf
from lmf import web
from lmf.app.arguments import Parser, device


def run(arguments: Sequence[str]) -> None:
    """Serve the page until the process is interrupted.

    Raises:
        UserError: if an option is invalid, or the picture or a model cannot be read.
    """
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    serve = {name: getattr(options, name) for name in ("host", "port", "browser", "trust")}
    limits = {name: getattr(options, name) for name in ("max_bytes", "max_pixels", "max_output", "idle", "sessions")}
    settings = web.Settings(**limits, hosts=tuple(options.allow_host))
    models = options.model or [*lmf.list_models()]
    web.serve(options.photo, models, device=device(options.device), settings=settings, **serve)


def parser() -> Parser:
    """Return the argument parser of ``lmf zoom``."""
    made = Parser(
        prog="lmf zoom",
        description="Zoom into a picture in the browser; every view is rendered at its own scale.",
        epilog="The page is served to this machine only, unless --host says otherwise.",
        allow_abbrev=False,
    )
    made.add_argument("photo", nargs="?", metavar="PHOTO", help="a picture; without one the page waits for a drop")
    made.add_argument(
        "-m",
        "--model",
        action="append",
        help="a name from `lmf models`, a run folder or a checkpoint; may be repeated (default: all pretrained models)",
    )
    made.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    made.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one (default: %(default)s)")
    made.add_argument("--no-browser", dest="browser", action="store_false", help="do not open the page")
    made.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which browsers reach the server, besides localhost and IP addresses; may be repeated",
    )
    made.add_argument("--max-bytes", type=int, default=100 << 20, help="largest uploaded file (default: %(default)s)")
    made.add_argument(
        "--max-pixels", type=int, default=40_000_000, help="largest picture to open (default: %(default)s)"
    )
    made.add_argument(
        "--max-output", type=int, default=400_000_000, help="largest picture to download (default: %(default)s)"
    )
    made.add_argument("--sessions", type=int, default=32, help="largest number of open pages (default: %(default)s)")
    made.add_argument(
        "--idle", type=float, default=900, metavar="SECONDS", help="free an idle page's memory (default: %(default)s)"
    )
    made.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: an accelerator if available)")
    made.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE", help="allow checkpoints to use classes of it"
    )
    return made
