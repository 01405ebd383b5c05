"""Command-line overrides: quotes file names for Hydra's grammar and splits overrides into keys and values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException

from lmf.errors import UserError

# Last part of the keys whose value is a path. All keys under ``paths`` are paths too.
PATHS = {"input", "output", "ckpt_path", "init_from", "pretrained", "card", "root", "val_root", "tables", "dir"}


def quoted(arguments: Sequence[str]) -> list[str]:
    """Convert command-line arguments to arguments that Hydra can parse.

    Overrides come first, then options. A path is quoted if Hydra's grammar needs it. A path that already is a quoted
    string, a list, an interpolation or, with ``-m``, a sweep does not change.

    Raises:
        UserError: if an argument is not an override. The message says how to write it.
    """
    known, others = get_args_parser().parse_known_args(list(arguments))
    overrides = known.overrides + [a for a in others if not a.startswith("-")]  # argparse wants them in one piece
    options = list(arguments)
    for override in overrides:
        options.remove(override)
    return [readable(override, known.multirun) for override in overrides] + options


def readable(argument: str, multirun: bool) -> str:
    """Convert one override to a form that Hydra can parse, see `quoted`.

    Args:
        argument: the override.
        multirun: whether a comma may separate the values of a sweep.

    Raises:
        UserError: if ``argument`` is not an override.
    """
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
            f'cannot read {argument}: quote values with special characters, as in "{key}={quote("a (1), b")}"; '
            "`lmf upscale FILE` needs no quotes"
        )
    return argument


def is_path(key: str) -> bool:
    """Return whether the value of ``key`` is a path."""
    key = key.lstrip("+")
    return key.startswith("paths.") or key.rpartition(".")[2] in PATHS


def misread(override: Override, value: str, multirun: bool) -> bool:
    """Return whether Hydra would parse the path ``value`` as a number or a sweep, or strip its spaces."""
    if override.is_sweep_override():
        simple = override.value_type is ValueType.SIMPLE_CHOICE_SWEEP  # a,b
        return simple and (not multirun or Path(value).expanduser().exists())
    read = override.value()
    if isinstance(read, str):
        return read != value and read == value.strip()
    return isinstance(read, bool | int | float)


def quote(value: str) -> str:
    """Return ``value`` as a quoted string of Hydra's grammar.

    The grammar requires backslashes to be doubled only before quotes and at the end.
    """
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value) + "'"


def parsed(argument: str) -> Override | None:
    """Parse ``argument`` with Hydra's grammar; return None if that fails."""
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def not_an_override(argument: str) -> str:
    """Return the error message for an argument without ``=``."""
    if Path(argument).expanduser().exists():
        return f"{argument}: a file alone is not a command; to enlarge it: lmf upscale {quote(argument)} --scale 4"
    return f"{argument}: neither a command nor KEY=VALUE; see lmf --help"


def split(override: str) -> tuple[str, str]:
    """Split an override into key and value.

    ``+data.root='a=b, c'`` becomes ``("data.root", "a=b, c")``. The value may contain ``=`` and, if it is quoted,
    spaces and commas. Quotes are removed. The value of ``~key`` is empty.
    """
    parsed = OverridesParser.create().parse_override(override)
    text, value = override.partition("=")[2], parsed.value()
    quoted = text[:1] in ("'", '"') and isinstance(value, str)
    return parsed.get_key_element().lstrip("+~"), str(value) if quoted else text
