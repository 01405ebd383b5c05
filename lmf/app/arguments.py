"""What the subcommands of ``lmf`` share."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

import torch

from lmf.errors import UserError, one_line


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
