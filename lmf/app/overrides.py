"""Overrides of the command line as keys and values."""

from __future__ import annotations

from hydra.core.override_parser.overrides_parser import OverridesParser


def split(override: str) -> tuple[str, str]:
    """Key and value: ``("data.root", "a=b, c")`` of ``+data.root='a=b, c'``; the value of ``~key`` is empty.

    A value may hold ``=``, and where it is quoted spaces and commas. The quotes are removed.
    """
    parsed = OverridesParser.create().parse_override(override)
    text, value = override.partition("=")[2], parsed.value()
    quoted = text[:1] in ("'", '"') and isinstance(value, str)
    return parsed.get_key_element().lstrip("+~"), str(value) if quoted else text
