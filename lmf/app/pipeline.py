"""Runs the task of a composed config and reports its errors."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from hydra.utils import get_method
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from lmf import errors, kernels
from lmf.app import (
    runs,
    sweep,
    tracking,  # noqa: F401 (registers resolvers of the configs)
)
from lmf.training import loggers

log = logging.getLogger(__name__)

HINT = "hydra.verbose=true shows the traceback"
USER_ERRORS = (HydraException, OmegaConfBaseException, MisconfigurationException)  # those of libraries
# What classes and functions that a config names raise for wrong arguments.
CALL_ERRORS = (ImportError, TypeError, ValueError)


class JobError(CompactHydraException):
    """Raised for a failed job of a multirun; the message gives the reason on one line."""


def run(config: DictConfig) -> None:
    """Run the function that ``config.task.run`` names.

    Errors that the user or the machine has caused are logged as one line, and the process exits with status 1. In a
    multirun the job fails and the other jobs continue. ``hydra.verbose=true`` shows the traceback instead. After a
    signal the exit status is 128 + its number.

    Args:
        config: the composed config. All random generators are seeded with ``config.seed``.

    Raises:
        JobError: if a job of a multirun fails.
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
            with kernels.encoder(*str(config.kernels.encoder).split(",")):
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
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # the other jobs continue; Hydra reports at the end
            raise JobError(message) from error
        sys.exit(1)
    finally:
        loggers.finish(failed)


def signal_behind(error: BaseException) -> int:
    """Return the number of the signal that caused ``error``, or 0.

    After a signal Lightning exits with status 0 or 1, which a scheduler would take for success or a failure.
    """
    if isinstance(error, SIGTERMException):
        return signal.SIGTERM
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return signal.SIGINT
    return 0


def explain(error: BaseException) -> str | None:
    """Return a one-line message for an error that the user or the machine has caused; None for a bug."""
    cause = root_cause(error)
    if isinstance(cause, MissingConfigException) and cause.options:
        return unknown_choice(str(cause.missing_cfg_file), cause.options)
    called = cause is not error and isinstance(cause, CALL_ERRORS)
    return errors.describe(cause) if called or isinstance(cause, USER_ERRORS) else errors.explain(cause)


def unknown_choice(path: str, options: Sequence[str]) -> str:
    """Return a message about a config of a group, such as ``experiment/lmf_edrs``, that is none of ``options``."""
    group, _, name = path.rpartition("/")
    return f"{group}={name}: no such choice; there are {', '.join(options)}{errors.did_you_mean(name, options)}"


def root_cause(error: BaseException) -> BaseException:
    """Return the error inside those of Hydra's instantiation and OmegaConf's interpolation, or ``error`` itself."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    inner: BaseException | None = error
    while isinstance(inner, InterpolationResolutionError):
        inner = inner.__cause__ or inner.__context__  # OmegaConf wraps it twice and clears __cause__
    return inner or error


@contextmanager
def explained() -> Iterator[None]:
    """Report errors outside `run`, such as those of Hydra, as one line too.

    Within the block Hydra raises errors instead of printing them. ``HYDRA_FULL_ERROR`` or ``hydra.verbose=true``
    keeps the traceback.
    """
    if "HYDRA_FULL_ERROR" in os.environ or "hydra.verbose=true" in sys.argv:
        yield
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # without it Hydra prints errors and exits
    try:
        yield
    except JobError:
        sys.exit(1)  # the job has logged the message
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        print(f"ERROR: {message} ({HINT})", file=sys.stderr)
        sys.exit(1)
