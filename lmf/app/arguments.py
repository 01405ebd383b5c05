"""What the subcommands of ``lmf`` share."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch

import lmf
from lmf.errors import UserError, one_line

log = logging.getLogger(__name__)


@contextmanager
def logged_warnings() -> Iterator[None]:
    """Log warnings of the package as one line each within the block; others are shown with their place as usual."""
    show, package = warnings.showwarning, Path(lmf.__file__).parent

    def shown(message: Warning | str, category: type[Warning], filename: str, *rest: Any, **options: Any) -> None:
        if Path(filename).is_relative_to(package):
            log.warning(" ".join(str(message).split()))
        else:
            show(message, category, filename, *rest, **options)

    warnings.showwarning = shown
    try:
        yield
    finally:
        warnings.showwarning = show


def fail(message: str, status: int = 1) -> NoReturn:
    """Print ``message`` as an error and exit with ``status``."""
    print(f"ERROR: {message}", file=sys.stderr)
    sys.exit(status)


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error as one line."""

    def error(self, message: str) -> NoReturn:
        """Print ``message`` and exit with status 2."""
        fail(f"{message} ({self.prog} --help)", status=2)


def device(name: str | None) -> torch.device:
    """Return the device called ``name``, by default an accelerator if one is available.

    Raises:
        UserError: if PyTorch cannot use the device.
    """
    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {one_line(error)}") from error
