"""W&B logging. A run continues offline if the server cannot be reached."""

from __future__ import annotations

import logging
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from lmf.errors import UserError, needed, one_line
from lmf.io.csv import column_names
from lmf.io.files import locked, write_text
from lmf.training.ranks import is_rank_zero
from lmf.training.results import Results

log = logging.getLogger(__name__)


def wandb_logger(
    save_dir: str, mode: str = "offline", init_timeout: float = 30.0, **options: Any
) -> WandbLogger | None:
    """Create a W&B logger.

    The id of the W&B run is stored in ``save_dir``, so that a resumed run continues the same W&B run.

    Args:
        save_dir: the run folder.
        mode: ``"online"``, ``"offline"`` or ``"disabled"``.
        init_timeout: seconds to wait for the server.
        options: options of ``wandb.init``: project, name, group, tags, ...

    Returns:
        The logger, offline if the server cannot be reached; None if W&B is disabled.

    Raises:
        UserError: if ``mode`` is unknown.
    """
    if mode not in ("online", "offline", "disabled"):
        raise UserError(f"W&B mode must be online, offline or disabled, got {mode!r}")
    if mode == "disabled":
        return None
    with needed("train"):
        import wandb

    def make(mode: str) -> WandbLogger:
        settings = wandb.Settings(init_timeout=init_timeout, console="off", silent=True)
        logger = WandbLogger(save_dir=save_dir, id=run_id(Path(save_dir)), mode=mode, settings=settings, **options)
        logger._wandb_init.pop("anonymous", None)  # Lightning always passes this option, which wandb has deprecated
        return logger

    logger = make(mode)
    if mode == "online" and is_rank_zero():
        try:
            _ = logger.experiment
        except Exception as error:  # wandb raises many types for a missing key, network, time-out or server errors
            log.warning("W&B cannot be reached (%s); logging offline, upload later with `wandb sync`", one_line(error))
            wandb.teardown()
            logger = make("offline")
    return logger


def log_table(loggers: Sequence[Logger], results: Results) -> None:
    """Log the rows of a test to W&B as the table ``test/results``."""
    rows = [row.columns() for row in results.rows]
    names = column_names(rows)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table("test/results", columns=names, data=[[row.get(name) for name in names] for row in rows])


def finish(failed: bool) -> None:
    """End the W&B run of this process, if any, so that the next job of a multirun does not log to it."""
    if wandb := sys.modules.get("wandb"):
        wandb.finish(exit_code=int(failed))


def run_id(folder: Path) -> str:
    """Return the W&B id of the run in ``folder``; the first call creates it."""
    path = folder / "wandb_id"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):  # external launchers start all ranks at once
        if not (path.is_file() and path.read_text().strip()):
            write_text(path, secrets.token_hex(4))
        return path.read_text().strip()
