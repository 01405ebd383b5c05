"""Overrides of the command line: file names quoted where Hydra's grammar needs it, and overrides as keys and values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException

from lmf.errors import UserError

# The last part of keys whose value is a path, besides all of ``paths``.
PATHS = {"input", "output", "ckpt_path", "init_from", "pretrained", "card", "root", "val_root", "tables", "dir"}


def quoted(arguments: Sequence[str]) -> list[str]:
    """``arguments`` of the command for Hydra: overrides first, then options; paths quoted where its grammar needs it.

    A path that already is a quoted string, a list, an interpolation, or under ``-m`` a sweep, stays.

    Raises:
        UserError: an argument that is no override; the message says how to write it.
    """
    known, others = get_args_parser().parse_known_args(list(arguments))
    overrides = known.overrides + [a for a in others if not a.startswith("-")]  # argparse wants them in one piece
    options = list(arguments)
    for override in overrides:
        options.remove(override)
    return [readable(override, known.multirun) for override in overrides] + options


def readable(argument: str, multirun: bool) -> str:
    """One override in a form that Hydra's grammar takes; see `quoted`."""
    override = parsed(argument)
    key, equals, value = argument.partition("=")
    if not equals:
        if override is None:
            raise UserError(not_an_override(argument))
        return argument
    if is_path(key):
        if override is not None and not misread(override, value, multirun):
            return argument
        if not (value.startswith("[") and value.endswith("]")):
            whole = not multirun or "," not in value or Path(value).expanduser().exists()
            parts = [value] if whole else value.split(",")
            candidate = f"{key}={','.join(map(quote, parts))}"
            if parsed(candidate) is not None:
                return candidate
    if override is None:
        raise UserError(
            f'cannot read {argument}: quote what holds special characters, as in "{key}={quote("a (1), b")}"; '
            "`lmf upscale FILE` takes file names as they are"
        )
    return argument


def is_path(key: str) -> bool:
    key = key.lstrip("+")
    return key.startswith("paths.") or key.rpartition(".")[2] in PATHS


def misread(override: Override, value: str, multirun: bool) -> bool:
    """Whether Hydra takes the path ``value`` for something else: a number, a choice, a name without its spaces."""
    if override.is_sweep_override():
        simple = override.value_type is ValueType.SIMPLE_CHOICE_SWEEP  # a,b
        return simple and (not multirun or Path(value).expanduser().exists())
    read = override.value()
    if isinstance(read, str):
        return read != value and read == value.strip()
    return isinstance(read, bool | int | float)


def quote(value: str) -> str:
    """``value`` as a string of Hydra's grammar. Backslashes are doubled only before quotes and at the end."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value) + "'"


def parsed(argument: str) -> Override | None:
    """``argument`` as Hydra reads it; None if it cannot."""
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def not_an_override(argument: str) -> str:
    if Path(argument).expanduser().exists():
        return f"{argument}: a file alone is no command; to enlarge it: lmf upscale {quote(argument)} --scale 4"
    return f"{argument}: neither a command nor KEY=VALUE; lmf --help lists what there is"


def split(override: str) -> tuple[str, str]:
    """Key and value: ``("data.root", "a=b, c")`` of ``+data.root='a=b, c'``; the value of ``~key`` is empty.

    A value may hold ``=``, and where it is quoted spaces and commas. The quotes are removed.
    """
    parsed = OverridesParser.create().parse_override(override)
    text, value = override.partition("=")[2], parsed.value()
    quoted = text[:1] in ("'", '"') and isinstance(value, str)
    return parsed.get_key_element().lstrip("+~"), str(value) if quoted else text
