"""What the outcome of a job depends on, as one hash."""

from __future__ import annotations

import glob
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lmf import checkpoint
from lmf.app import version
from lmf.app.tasks.common import source
from lmf.errors import UserError
from lmf.renderers.cmsr import tables

# Parts of the config whose strings can be paths of what a job reads.
READ = ("input", "card", "results", "renderer", "encoder", "decoder", "estimator", "data")


def identity(config: DictConfig) -> str:
    """A hash of what a job's outcome depends on: config, code, and every file and folder that the config names."""
    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)
    own = {key: value for key, value in content.items() if key not in ("hydra", "paths")}
    states = {str(path): state(path) for path in sources(config)}
    known = [own, states, version.fingerprint()]
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:16]


def sources(config: DictConfig) -> list[Path]:
    """The files and folders that the job of ``config`` reads.

    These are its models (``ckpt_path``, ``pretrained``, ``init_from``, ``task.models``) with their CMSR tables, the
    source files of classes that are not ours, and whatever else in the config is the path of a file, a folder of
    pictures or a glob.
    """
    found: list[Path] = []
    models = [config.get("init_from"), *config.task.get("models", [])]
    with suppress(UserError):
        models.append(None if config.task.name == "fit" and config.ckpt_path == "last" else source(config))
    for model in filter(None, models):
        with suppress(UserError):
            file = checkpoint.find(model)
            found += [file, tables.beside(file)]
    for text in texts(config, READ):
        found += named(text)
    return found


def texts(node: DictConfig | ListConfig, keys: Iterable[Any] | None = None) -> Iterator[str]:
    """Every string under ``keys``, by default all, of a config. What cannot be resolved is left out."""
    if keys is None:
        keys = list(node) if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        value = None
        with suppress(OmegaConfBaseException):
            value = node.get(key) if key != "cache" else None  # jobs write there
        if isinstance(value, str):
            yield value
        elif isinstance(value, (DictConfig, ListConfig)):
            yield from texts(value)


def named(text: str) -> list[Path]:
    """The files and folders that a string in a config names: a path, a glob, or a class in a file outside lmf."""
    if glob.has_magic(text):
        return [Path(name) for name in sorted(glob.glob(text, recursive=True))]
    with suppress(OSError, ValueError):
        if (path := Path(text).expanduser()).exists():
            return [path]
    module = text.rpartition(".")[0]
    if all(part.isidentifier() for part in module.split(".")) and module.partition(".")[0] != "lmf":
        with suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(module)
            if spec is not None and spec.origin is not None:
                return [Path(spec.origin)]
    return []


def state(path: Path) -> list[Any]:
    """Size and time of a file, or of every file in a folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(str(file), file.stat()) for file in files if file.is_file()]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
