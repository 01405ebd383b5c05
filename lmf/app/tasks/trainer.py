"""The Lightning trainer of training and testing."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import lightning as L
from hydra.utils import instantiate
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from lmf.precision import autocast


def make_trainer(config: DictConfig, facts: Mapping[str, Any], *callbacks_of_task: L.Callback) -> L.Trainer:
    """Build the trainer of ``config`` with its callbacks and loggers.

    Args:
        config: the composed config.
        facts: what the loggers record as hyper-parameters, see `lmf.app.tracking.facts`.
        callbacks_of_task: callbacks that the task adds; they see what those of the config have added to the outputs.
    """
    quieten()
    autocast(config.trainer.precision, "cpu")  # raises an error for precisions that round coordinates
    callbacks = [*(instantiate(c) for c in config.callbacks.values() if c), *callbacks_of_task]
    if config.task.name == "fit" and config.schedule.ema:
        callbacks.append(EMAWeightAveraging(decay=config.schedule.ema))
    loggers = make_loggers(config, facts)
    trainer: L.Trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers or False)
    return trainer


def make_loggers(config: DictConfig, facts: Mapping[str, Any]) -> list[Logger]:
    """Build the loggers of ``config`` and give them ``facts`` as hyper-parameters."""
    made = [instantiate(c, _convert_="all") for c in config.logger.values() if c]
    loggers: list[Logger] = [logger for logger in made if logger is not None]  # W&B may be disabled
    for logger in loggers:
        logger.log_hyperparams(dict(facts))
    return loggers


# Beginnings, as regular expressions, of warnings that no option of ours avoids. All other warnings are shown.
SILENT = (
    r"`isinstance\(treespec, LeafSpec\)`",
    r"Found \d+ module\(s\) in eval mode",  # a frozen encoder
    r"Checkpoint directory .* exists and is not empty",  # a resumed run, and the last.ckpt beside best.ckpt
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    r"`ModelCheckpoint\(monitor='val/.*could not find the monitored key",  # before the first validation; later an error
    r"This DataLoader will create \d+ worker processes in total",  # data.workers says how many
    r"torch\.meshgrid: in an upcoming release",
)


def quieten() -> None:
    """Silence Lightning's hardware notes and tips, and the warnings in `SILENT`."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in SILENT:
        warnings.filterwarnings("ignore", message=message)
