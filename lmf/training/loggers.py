"""Loggers: W&B, which never stops a training, and TensorBoard; pictures and tables for both."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from lmf.errors import UserError, needed, one_line
from lmf.io.csv import column_names
from lmf.io.files import locked, write_text

log = logging.getLogger(__name__)

STEP = "trainer/global_step"  # the step axis, which Lightning logs with every value
BEST = ("psnr", "ssim")  # endings of validation metrics whose maximum is part of the summary
STOPPED = "logging to W&B stops (%s); the run goes on and its metrics are in the CSV files of the run folder"

Method = TypeVar("Method", bound=Callable[..., None])


def wandb_logger(
    save_dir: str,
    mode: str = "offline",
    init_timeout: float = 30.0,
    finish_timeout: float = 120.0,
    log_model: bool = False,
    **options: Any,
) -> WandbRun | None:
    """Create a W&B logger.

    The id of the W&B run is stored in ``save_dir``, so that a resumed run continues the same W&B run. Below an agent of
    a W&B sweep, the agent sets the id, the entity and the project.

    Args:
        save_dir: the run folder.
        mode: ``"online"``, ``"offline"`` or ``"disabled"``.
        init_timeout: seconds to wait for the server.
        finish_timeout: seconds to wait at the end for data that has not been uploaded.
        log_model: whether to store checkpoints and exported weights as artifacts.
        options: options of ``wandb.init``: project, name, group, tags, ...

    Returns:
        The logger, offline if the server cannot be reached; None if W&B is disabled.

    Raises:
        UserError: if ``mode`` or ``log_model`` is unknown.
    """
    if mode not in ("online", "offline", "disabled"):
        raise UserError(f"W&B mode must be online, offline or disabled, got {mode!r}")
    if not isinstance(log_model, bool):
        raise UserError(f"log_model must be true or false, got {log_model!r}")
    if mode == "disabled":
        return None
    with needed("train"):
        import wandb
    options["settings"] = wandb.Settings(
        init_timeout=init_timeout,
        finish_timeout=finish_timeout,
        finish_timeout_raises=True,
        console="off",
        silent=True,
    )
    identity: str | None = run_id(Path(save_dir))
    if "WANDB_SWEEP_ID" in os.environ:  # wandb ignores what contradicts its agent, and warns
        options |= {"project": None, "entity": None}
        identity = None
    return WandbRun(save_dir, mode, log_model, id=identity, **options)


def guarded(method: Method) -> Method:
    """Make ``method`` report an error once and stop logging to W&B. W&B must not stop a training."""

    @wraps(method)
    def call(self: WandbRun, *args: Any, **options: Any) -> None:
        if self.failed:
            return
        try:
            method(self, *args, **options)
        except Exception as error:  # wandb raises many types
            self.give_up(error)

    return cast(Method, call)


class WandbRun(WandbLogger):
    """Lightning's W&B logger with hyper-parameters at the start, best values, artifacts, and no way to fail a run.

    Hyper-parameters that are logged before the first metric are part of the run from its first moment, as flat keys
    such as ``schedule.optimizer.lr``. These are the names of the overrides and of the parameters of a W&B sweep. The
    summary of ``val/*psnr`` and ``val/*ssim`` holds the last and the largest value. Only global rank zero logs.

    Args:
        save_dir: the run folder.
        mode: ``"online"`` or ``"offline"``. If the server cannot be reached, the run continues offline.
        log_model: whether to store the checkpoints of every `ModelCheckpoint` as versions of the artifact
            ``model-ID`` at the end of a training, with the file's stem (``best``, ``last``) as alias.
        options: options of ``wandb.init``.

    Attributes:
        failed: whether W&B has raised an error; from then on nothing is logged.
    """

    def __init__(self, save_dir: str, mode: str, log_model: bool, **options: Any) -> None:
        super().__init__(save_dir=save_dir, **options)
        self._wandb_init.pop("anonymous", None)  # Lightning always passes this option, which wandb has deprecated
        self._wandb_init |= {"mode": mode, "project": options.get("project")}
        self.with_model = log_model
        self.failed = False
        self.known: set[str] = set()  # metrics whose summary is defined
        self.checkpoints: dict[str, ModelCheckpoint] = {}

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run, which starts at the first access; an object that ignores all calls after a failure."""
        if self._experiment is None and not self.failed:
            try:
                self._start()
            except Exception as error:
                self.give_up(error)
        return _DummyExperiment() if self.failed else self._experiment

    def _start(self) -> None:
        try:
            _ = super().experiment
        except Exception as error:
            if self._wandb_init["mode"] != "online":
                raise
            import wandb

            log.warning("W&B cannot be reached (%s); logging offline, upload later with `wandb sync`", one_line(error))
            wandb.teardown()
            self._wandb_init["mode"] = "offline"
            _ = super().experiment

    def give_up(self, error: Exception) -> None:
        """Log ``error`` as a warning and stop logging to W&B."""
        self.failed = True
        log.warning(STOPPED, one_line(error))

    @rank_zero_only
    @guarded
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Add ``params`` to the config of the run."""
        if self._experiment is None:
            self._wandb_init["config"] = {**self._wandb_init.get("config", {}), **params}
        else:
            super().log_hyperparams(dict(params))

    @rank_zero_only
    @guarded
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log ``metrics`` at ``step``."""
        for name in metrics.keys() - self.known:
            self.known.add(name)
            if name.startswith("val/") and name.endswith(BEST):
                self.experiment.define_metric(name, step_metric=STEP, step_sync=True, summary="max,last")
        super().log_metrics(metrics, step)

    @rank_zero_only
    @guarded
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """Log pictures; see Lightning's logger."""
        super().log_image(key, images, step, **kwargs)

    @rank_zero_only
    @guarded
    def log_table(
        self,
        key: str,
        columns: list[str] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        """Log a table. Cells that are PIL images become pictures."""
        import wandb

        cells = [[wandb.Image(cell) if isinstance(cell, Image.Image) else cell for cell in row] for row in data or ()]
        super().log_table(key, columns, cells if data is not None else None, dataframe, step)

    @rank_zero_only
    @guarded
    def log_file(self, path: Path, name: str, aliases: Sequence[str], metadata: Mapping[str, Any]) -> None:
        """Store the file ``path`` as a version of the artifact ``name``."""
        import wandb

        artifact = wandb.Artifact(name, type="model", metadata=dict(metadata))
        artifact.add_file(str(path))
        self.experiment.log_artifact(artifact, aliases=list(aliases))

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Note the checkpoint. It is stored at the end, because files are replaced while training goes on."""
        if self.with_model:
            self.checkpoints[checkpoint_callback.best_model_path] = checkpoint_callback

    @rank_zero_only
    @guarded
    def finalize(self, status: str) -> None:
        """Store the checkpoints of the training that has ended, whatever its status."""
        found = {Path(path): callback for path, callback in self.checkpoints.items()}
        self.checkpoints = {}
        for path, callback in found.items():
            if path.is_file():
                score = {} if callback.best_model_score is None else {"score": callback.best_model_score.item()}
                self.log_file(path, f"model-{self.experiment.id}", [path.stem], {"monitor": callback.monitor, **score})


def tensorboard_logger(save_dir: str, name: str = "tensorboard") -> TensorBoardLogger:
    """Create a TensorBoard logger. A resumed run adds its events to the same folder.

    Args:
        save_dir: the run folder.
        name: name of the folder in it.

    Raises:
        MissingExtra: if TensorBoard is not installed.
    """
    with needed("tensorboard"):
        import tensorboard  # noqa: F401
    return TensorBoardLogger(save_dir, name="", version=name, default_hp_metric=False)


def log_pictures(
    loggers: Sequence[Logger], key: str, pictures: Sequence[Image.Image], captions: Sequence[str], step: int
) -> None:
    """Log pictures to W&B and TensorBoard. Both show one slider over all steps with the same ``key``."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, list(pictures), step=step, caption=list(captions))
        elif isinstance(logger, TensorBoardLogger):
            for number, picture in enumerate(pictures):
                logger.experiment.add_image(f"{key}/{number}", np.asarray(picture), step, dataformats="HWC")


def log_rows(loggers: Sequence[Logger], key: str, rows: Sequence[Mapping[str, Any]], step: int | None = None) -> None:
    """Log ``rows`` as a table to W&B, with a column for every name and empty cells where a row lacks it."""
    names = column_names(rows)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table(key, columns=names, data=[[row.get(name) for name in names] for row in rows], step=step)


def log_file(
    loggers: Sequence[Logger], path: Path, name: str, aliases: Sequence[str], metadata: Mapping[str, Any]
) -> None:
    """Store the file ``path`` in W&B as a version of the artifact ``name``."""
    for logger in loggers:
        if isinstance(logger, WandbRun):
            logger.log_file(path, name, aliases, metadata)


def finish(failed: bool) -> None:
    """End the W&B run of this process, if any, so that the next job of a multirun does not log to it."""
    if wandb := sys.modules.get("wandb"):
        try:
            wandb.finish(exit_code=int(failed))
        except Exception as error:
            log.warning("W&B has not received everything (%s); upload the rest with `wandb sync`", one_line(error))
            with suppress(Exception):  # otherwise wandb tries again at exit and prints a traceback
                wandb.teardown(exit_code=int(failed))


def run_id(folder: Path) -> str:
    """Return the W&B id of the run in ``folder``; the first call creates it.

    An agent of a W&B sweep sets it.
    """
    path = folder / "wandb_id"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):  # external launchers start all ranks at once
        if not (path.is_file() and path.read_text().strip()):
            swept = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
            write_text(path, swept or secrets.token_hex(4))
        return path.read_text().strip()
