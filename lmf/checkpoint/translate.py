"""Helpers to translate state dicts and model descriptions of other projects."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from lmf.errors import UserError

Config = dict[str, Any]
State = dict[str, Tensor]
# Converts options and weights to the config and weights of a part of a model. It adds a note for everything that is not
# translated exactly, and raises UserError for options that are not supported.
Converter = Callable[[Config, State, list[str]], tuple[Config, State]]


def check_names(state: Any) -> None:
    """Check that ``state`` from a file is a mapping whose keys are names.

    Raises:
        UserError: if it is not.
    """
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise UserError(f"weights must be a mapping from names to tensors, got {state!r:.40}")


def without_wrappers(state: Mapping[str, Tensor]) -> State:
    """Remove prefixes of wrappers from names: DataParallel's ``module.``, torch.compile's ``_orig_mod.``, ``model.``.

    Raises:
        UserError: if two weights would have the same name, or ``state`` is not a mapping from names.
    """
    check_names(state)
    out: State = {}
    for key, value in state.items():
        parts = [part for part in key.split(".") if part not in ("module", "_orig_mod")]
        while parts[:1] == ["model"]:
            del parts[0]
        name = ".".join(parts)
        if name in out:
            raise UserError(f"two weights are called {name} without prefixes, the second is {key}")
        out[name] = value
    return out


def rename(state: Mapping[str, Tensor], rules: Mapping[str, str]) -> State:
    """Apply to every key the first of the regular-expression ``rules`` that matches."""
    out = {}
    for key, value in state.items():
        for pattern, new in rules.items():
            if re.match(pattern, key):
                key = re.sub(pattern, new, key)
                break
        out[key] = value
    return out


def drop(state: Mapping[str, Tensor], pattern: str) -> State:
    """Return ``state`` without the keys that match ``pattern`` fully."""
    return {k: v for k, v in state.items() if not re.fullmatch(pattern, k)}


def require(args: Mapping[str, Any], **expected: Any) -> None:
    """Check that options have the ``expected`` values. Missing options pass.

    Raises:
        UserError: if one has another value.
    """
    for key, value in expected.items():
        if args.get(key, value) != value:
            raise UserError(f"{key}={args[key]!r} is not supported, only {value!r}")


def spec_args(spec: Any, key: str, name: str, *known: str, notes: list[str]) -> Config:
    """Return the options of a part of a model, which must be called ``name``.

    A part of another name can have weights of the same shape and compute something else.

    Args:
        spec: ``{"name": ..., "args": {...}}``.
        key: name of the option that holds ``spec``, for messages.
        name: expected name.
        known: known options. Each other one adds a note.
        notes: list to which notes are added.

    Raises:
        UserError: if ``spec`` is not a mapping or has another name.
    """
    if not isinstance(spec, Mapping):
        raise UserError(f"{key} needs name and args, got {spec!r}")
    if spec.get("name", name) != name:
        raise UserError(f"{key} is a {spec['name']!r}, only {name!r} is supported")
    args = dict(spec.get("args") or {})
    note_unknown(args, known, key, notes)
    return args


def note_unknown(args: Mapping[str, Any], known: tuple[str, ...], where: str, notes: list[str]) -> None:
    """Add a note for the options of ``args`` that are not ``known`` and are therefore ignored."""
    unknown = [f"{key}={args[key]!r}" for key in args if key not in known]
    if unknown:
        notes.append(f"{where}: unknown options are ignored: {', '.join(unknown)}")


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Count the distinct values of the group in ``pattern`` among the keys that match it."""
    return len({m[1] for k in state if (m := re.match(pattern, k))})


def widths(state: Mapping[str, Tensor], prefix: str) -> list[int]:
    """Return the hidden widths of an MLP with the weights ``{prefix}.0.weight``, ``{prefix}.2.weight``, ...

    Raises:
        KeyError: if there are no such weights.
    """
    weights = [v for k, v in state.items() if re.fullmatch(rf"{re.escape(prefix)}\.\d+\.weight", k)]
    if not weights:
        raise KeyError(f"{prefix}.*.weight")
    return [len(v) for v in weights[:-1]]
