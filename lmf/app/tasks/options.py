"""Checks values of options, which YAML and the command line give in any type."""

from __future__ import annotations

from typing import Any

from omegaconf import ListConfig

from lmf.errors import UserError


def flag(name: str, value: Any) -> bool:
    """Return ``value``, that of the option ``name``.

    Raises:
        UserError: if it is neither true nor false. Any text would count as true.
    """
    if not isinstance(value, bool):
        raise UserError(f"{name} must be true or false, got {value}")
    return value


def flags(name: str, value: Any) -> list[bool]:
    """Return ``value``, that of the option ``name``, as a list.

    Raises:
        UserError: if it is neither true nor false nor a list of them.
    """
    values = list(value) if isinstance(value, list | ListConfig) else [value]
    if not values or not all(isinstance(each, bool) for each in values):
        raise UserError(f"{name} must be true, false or [false,true], got {value}")
    return values


def items(name: str, value: Any) -> list[Any]:
    """Return ``value``, that of the option ``name``, as a plain list.

    Raises:
        UserError: if it is not a list. A text would count as the list of its letters.
    """
    if not isinstance(value, list | ListConfig):
        raise UserError(f"{name} must be a list, such as [{value}], got {value}")
    return list(value)
