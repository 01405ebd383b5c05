"""From a composed config to a finished task. Below `lmf.app.tasks` nothing sees a config object."""

from __future__ import annotations

import logging
import random
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import get_method
from lightning.pytorch.utilities.exceptions import SIGTERMException
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
    except (SystemExit, KeyboardInterrupt) as error:
        if number := signal_behind(error):
            sys.exit(128 + number)
        raise
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


def signal_behind(error: BaseException) -> int:
    """The number of the signal that ``error`` stands for, or 0.

    On signals Lightning exits with status 0 or 1, which schedulers take for success or a failure.
    """
    if isinstance(error, SIGTERMException):
        return signal.SIGTERM
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return signal.SIGINT
    return 0


def root_cause(error: BaseException) -> BaseException:
    """What Hydra's instantiation errors wrap."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error
