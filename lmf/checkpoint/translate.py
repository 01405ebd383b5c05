"""Tools for translating foreign state dicts and model descriptions into ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from lmf.errors import UserError

Config = dict[str, Any]
State = dict[str, Tensor]
# From options and weights to our config and weights; what changes on the way is added to the list of notes.
Converter = Callable[[Config, State, list[str]], tuple[Config, State]]


def without_wrappers(state: Mapping[str, Tensor]) -> State:
    """Removes what wrappers put into names: DataParallel's ``module.``, torch.compile's ``_orig_mod.``, ``model.``.

    Raises:
        UserError: two weights would get one name.
    """
    out: State = {}
    for key, value in state.items():
        parts = [part for part in key.split(".") if part not in ("module", "_orig_mod")]
        while parts[:1] == ["model"]:
            del parts[0]
        name = ".".join(parts)
        if name in out:
            raise UserError(f"two weights are called {name} apart from prefixes, {key} is the second")
        out[name] = value
    return out


def rename(state: Mapping[str, Tensor], rules: Mapping[str, str]) -> State:
    """Applies regular-expression ``rules`` to every key; the first that matches counts."""
    out = {}
    for key, value in state.items():
        for pattern, new in rules.items():
            if re.match(pattern, key):
                key = re.sub(pattern, new, key)
                break
        out[key] = value
    return out


def drop(state: Mapping[str, Tensor], pattern: str) -> State:
    """Without the keys that match all of ``pattern``."""
    return {k: v for k, v in state.items() if not re.fullmatch(pattern, k)}


def require(args: Mapping[str, Any], **expected: Any) -> None:
    """Refuses options whose value is not the ``expected`` one; absent means expected."""
    for key, value in expected.items():
        if args.get(key, value) != value:
            raise UserError(f"{key}={args[key]!r} is not supported, only {value!r}")


def spec_args(spec: Any, key: str, name: str, *known: str, notes: list[str]) -> Config:
    """The options of the part ``{name, args}`` under ``key``, which must be called ``name``.

    A part of another name can have weights of the same shape and compute something else. Options beside ``known``
    become a note.
    """
    if not isinstance(spec, Mapping):
        raise UserError(f"{key} needs name and args, got {spec!r}")
    if spec.get("name", name) != name:
        raise UserError(f"{key} is a {spec['name']!r}, only {name!r} is supported")
    args = dict(spec.get("args") or {})
    note_unknown(args, known, key, notes)
    return args


def note_unknown(args: Mapping[str, Any], known: tuple[str, ...], where: str, notes: list[str]) -> None:
    """Notes the options that this project does not know and therefore ignores."""
    unknown = [f"{key}={args[key]!r}" for key in args if key not in known]
    if unknown:
        notes.append(f"{where}: unknown options are ignored: {', '.join(unknown)}")


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers the one group of ``pattern`` takes among the keys."""
    return len({m[1] for k in state if (m := re.match(pattern, k))})


def widths(state: Mapping[str, Tensor], prefix: str) -> list[int]:
    """Hidden widths of an MLP whose weights are ``{prefix}.0.weight``, ``{prefix}.2.weight``, ..."""
    weights = [v for k, v in state.items() if re.fullmatch(rf"{re.escape(prefix)}\.\d+\.weight", k)]
    if not weights:
        raise KeyError(f"{prefix}.*.weight")
    return [len(v) for v in weights[:-1]]
