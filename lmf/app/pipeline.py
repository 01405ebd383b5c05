"""From a composed config to a finished task. Below `lmf.app.tasks` nothing sees a config object."""

from __future__ import annotations

import logging
import random
import sys
from pathlib import Path

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import get_method
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lmf.app import runs, sweep
from lmf.errors import one_line
from lmf.training import loggers

log = logging.getLogger(__name__)

# What a user can mend. Anything else is a bug and keeps its traceback.
USER_ERRORS = (ValueError, OSError, InstantiationException, OmegaConfBaseException)


class JobError(RuntimeError):
    """A job of a multirun that failed for a reason its message gives."""


def run(config: DictConfig) -> None:
    """Runs ``config.task.run``. What a user can mend becomes one line and exit status 1.

    ``hydra.verbose=true`` shows the traceback instead.
    """
    if sweep.finished(config):
        log.info(f"finished before; to run it again, delete {config.paths.output}")
        return
    failed = True
    try:
        with runs.job(Path(config.paths.output)):
            random.seed(config.seed)
            np.random.seed(config.seed)
            torch.manual_seed(config.seed)
            get_method(config.task.run)(config)
        failed = False
    except USER_ERRORS as error:
        if HydraConfig.get().verbose:
            raise
        message = one_line(root_cause(error), limit=1000)
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # the other jobs go on; Hydra reports at the end
            raise JobError(message) from error
        log.error(message)
        sys.exit(1)
    finally:
        loggers.finish(failed)


def root_cause(error: BaseException) -> BaseException:
    """What Hydra's instantiation errors wrap."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error
