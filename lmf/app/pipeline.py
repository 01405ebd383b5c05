"""From a composed config to a finished task. Below `lmf.app.tasks` nothing sees a config object."""

from __future__ import annotations

import errno
import logging
import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import get_method
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lmf.app import runs, sweep
from lmf.errors import UserError, one_line
from lmf.training import loggers

log = logging.getLogger(__name__)

HINT = "hydra.verbose=true shows the traceback"
# What the user or the machine has caused. Anything else is a bug and keeps its traceback.
USER_ERRORS = (UserError, HydraException, OmegaConfBaseException, MisconfigurationException)
MACHINE_ERRORS = (MemoryError, torch.OutOfMemoryError)
MACHINE_ERRNOS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG,  # disk full, quota, file too large
    errno.EROFS, errno.EACCES, errno.EPERM,  # read-only, not permitted
    errno.ENODEV, errno.ENXIO, errno.EIO, errno.ESTALE,  # no device, broken device
    errno.EMFILE, errno.ENFILE, errno.EBUSY,  # too many open files
    errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP,  # a name that cannot be used
}  # fmt: skip


class JobError(CompactHydraException):
    """A job of a multirun that failed for a reason its message gives."""


def run(config: DictConfig) -> None:
    """Runs ``config.task.run``. What the user or the machine has caused becomes one line and exit status 1.

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
    except Exception as error:
        message = explain(error)
        if message is None or HydraConfig.get().verbose:
            raise
        log.error(f"{message} ({HINT})")
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # the other jobs go on; Hydra reports at the end
            raise JobError(message) from error
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


def explain(error: BaseException) -> str | None:
    """One line that says what the user or the machine has caused; None for a bug."""
    cause = root_cause(error)
    caused = isinstance(error, (*USER_ERRORS, *MACHINE_ERRORS)) or isinstance(cause, MACHINE_ERRORS)
    if not caused and not (isinstance(error, OSError) and error.errno in MACHINE_ERRNOS):
        return None
    return one_line(cause, limit=1000)


def root_cause(error: BaseException) -> BaseException:
    """What Hydra's instantiation errors wrap."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def explained() -> Iterator[None]:
    """Around the whole command: what fails before or after `run`, in Hydra itself, is explained in one line as well."""
    if "HYDRA_FULL_ERROR" in os.environ or "hydra.verbose=true" in sys.argv:
        yield
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints errors itself and exits
    try:
        yield
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        print(f"ERROR: {message} ({HINT})", file=sys.stderr)
        sys.exit(1)
