"""The Lightning trainer that fitting and testing share."""

from __future__ import annotations

import logging
import warnings

import lightning as L
from hydra.utils import instantiate
from lightning.pytorch.callbacks import EMAWeightAveraging
from omegaconf import DictConfig

from lmf.precision import autocast


def make_trainer(config: DictConfig) -> L.Trainer:
    """The trainer, its callbacks and loggers, as ``config`` describes them."""
    quieten()
    autocast(config.trainer.precision, "cpu")  # refuses precisions that round coordinates
    callbacks = [instantiate(c) for c in config.callbacks.values() if c]
    if config.task.name == "fit" and config.schedule.ema:
        callbacks.append(EMAWeightAveraging(decay=config.schedule.ema))
    loggers = [instantiate(c, _convert_="all") for c in config.logger.values() if c]
    return instantiate(config.trainer, callbacks=callbacks, logger=[x for x in loggers if x is not None] or False)


def quieten() -> None:
    """No hardware notes, no advertisements from Lightning."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")  # a frozen encoder
