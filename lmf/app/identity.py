"""One hash of everything that the result of a job depends on."""

from __future__ import annotations

import glob
import hashlib
import importlib.util
import json
import os
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

# Top-level keys whose strings may be paths of files that a job reads.
READ = ("input", "card", "results", "renderer", "encoder", "decoder", "estimator", "data")


def identity(config: DictConfig) -> str:
    """Return a hash of the config, the code, and every file and folder that the config names.

    Returns:
        16 hexadecimal digits. Two jobs with the same hash have the same result.
    """
    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)
    options = {key: value for key, value in content.items() if key not in ("hydra", "paths")}
    states = {str(path): state(path) for path in sources(config)}
    inputs = [options, states, version.fingerprint()]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:16]


def sources(config: DictConfig) -> list[Path]:
    """Return the files and folders that the job of ``config`` reads.

    These are its models (``ckpt_path``, ``pretrained``, ``init_from``, ``task.models``) with their CMSR tables, the
    source files of classes outside ``lmf``, and all other values under `READ` that are a path or a glob.
    """
    paths: list[Path] = []
    compared = config.task.get("models", [])
    named_models = [each.get("model") if isinstance(each, DictConfig) else each for each in compared]
    models = [config.get("init_from"), *named_models]
    with suppress(UserError):
        models.append(None if config.task.name == "fit" and config.ckpt_path == "last" else source(config))
    for model in filter(None, models):
        with suppress(UserError):
            file = checkpoint.find(model)
            paths += [file, tables.beside(file)]
    for text in texts(config, READ):
        paths += named(text)
    return paths


def texts(node: DictConfig | ListConfig, keys: Iterable[Any] | None = None) -> Iterator[str]:
    """Yield every string in a config. Values that cannot be resolved are skipped.

    Args:
        node: the config or a part of it.
        keys: keys of ``node`` to look under; all by default.
    """
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
    """Return the files and folders that a string in a config names.

    Args:
        text: a path, a glob, or the dotted name of a class. The source files of ``lmf`` are left out.
    """
    if not text:
        return []
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
    """Return [name, size in bytes, modification time in ns] of a file, or of every file below a folder.

    Symbolic links are followed, as they are when pictures are read.
    """
    files = sorted(below(path)) if path.is_dir() else [path]
    stats = [(str(file), file.stat()) for file in files if file.is_file()]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def below(folder: Path) -> Iterator[Path]:
    """Yield all files below ``folder``. A folder that several links lead to is entered once, so that loops end."""
    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        stat = os.stat(root)
        if (stat.st_dev, stat.st_ino) in seen:
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders.sort()  # which link is entered must not depend on the order on disk
        yield from (Path(root, file) for file in files)
