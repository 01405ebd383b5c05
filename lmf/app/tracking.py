"""What a run tells its loggers about itself: name, group, tags, notes, and facts to filter by.

Importing this module registers the OmegaConf resolvers of conf/logger.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from lmf.app import version
from lmf.app.overrides import split
from lmf.app.runs import sweep_name
from lmf.training.resume import flat

if TYPE_CHECKING:
    from lmf.data import SRDataModule

SWEPT = "LMF_SWEPT"  # environment variable with the keys that the current multirun varies, for its workers
GROUPS = ("experiment", "encoder", "decoder", "renderer", "data", "recipe", "schedule", "trainer", "task", "sweep")
LEFT_OUT = ("data.module.", "logger.")  # the former repeats other options
CONTENT_LIMIT = 8 * 2**30  # bytes of a data set that are read for its hash


class SweptCallback(Callback):
    """Publishes which options a multirun varies."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Write the keys to the environment, which workers of every launcher inherit."""
        parsed = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        keys = [o.get_key_element().lstrip("+") for o in parsed if o.is_sweep_override()]
        params = config.hydra.sweeper.get("params") or {}
        os.environ[SWEPT] = ",".join(dict.fromkeys([*keys, *map(str, params)]))


def swept() -> dict[str, str]:
    """Return the options that a sweep has chosen for this job, by key; empty outside sweeps.

    Sweeps are multiruns and the sweeps of W&B, whose agent names the file with its choices in the environment.
    """
    keys = [key for key in os.environ.get(SWEPT, "").split(",") if key]
    with suppress(OSError, KeyError, AttributeError, yaml.YAMLError):
        keys += yaml.safe_load(Path(os.environ["WANDB_SWEEP_PARAM_PATH"]).read_text()).keys()
    given = dict(map(split, task_overrides()))
    return {key: given[key] for key in keys if key in given}


def task_overrides() -> list[str]:
    """Return the overrides of this job; empty for a config that Hydra's command has not composed."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def choices() -> dict[str, str]:
    """Return the chosen file of every config group."""
    made = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    return {group: str(made[group]) for group in GROUPS if made.get(group) is not None}


def run_title(name: str) -> str:
    """Return ``name`` with the options that a sweep has chosen, such as ``lmf_edsr lr=0.001 seed=0``.

    A key is its last part, or as many parts as tell it from the other keys.
    """
    values = swept()
    return " ".join([name, *(f"{short(key, list(values))}={value}" for key, value in values.items())])


def short(key: str, keys: Sequence[str]) -> str:
    """Return the last parts of the dotted ``key``, as few as tell it from the other ``keys``."""
    parts = key.split(".")
    for count in range(1, len(parts)):
        end = parts[-count:]
        if sum(other.split(".")[-count:] == end for other in keys) == 1:
            return ".".join(end)
    return key


def run_group(name: str) -> str:
    """Return the group of a run: its multirun, else its experiment, else ``name``."""
    return sweep_name() or choices().get("experiment") or name


def run_tags() -> list[str]:
    """Return the tags of a run: the chosen experiment (else encoder and decoder), data and schedule."""
    chosen = choices()
    model = ("experiment",) if "experiment" in chosen else ("encoder", "decoder")
    trained = ("schedule",) if chosen.get("task") == "fit" else ()
    return [chosen[group] for group in (*model, "data", *trained) if group in chosen]


def run_notes() -> str:
    """Return the command of this job, which a multirun or an agent may have made."""
    return shlex.join(["lmf", *task_overrides()]) if HydraConfig.initialized() else ""


def facts(config: DictConfig, datamodule: SRDataModule | None = None, stage: str = "fit") -> dict[str, Any]:
    """Return what a logger records as hyper-parameters, by flat names.

    These are all options of ``config`` (``schedule.optimizer.lr``, ...), the chosen config files (``choices.data``),
    the code (``code.version``, ``code.commit``, ...) and the data sets (``datasets.train.hash``, ...).

    Args:
        config: the composed config.
        datamodule: after its ``setup`` for ``stage``; None leaves the data sets out.
        stage: ``"fit"`` or ``"test"``.
    """
    options = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    values = {name: value for name, value in flat(options) if not name.startswith(LEFT_OUT)}
    values |= {f"choices.{group}": choice for group, choice in choices().items()}
    values |= {f"code.{name}": value for name, value in version.facts().items()}
    values |= {"code.torch": torch.__version__, "code.python": sys.version.partition(" ")[0]}
    for name, files in (data_files(datamodule, stage) if datamodule is not None else {}).items():
        values |= {f"datasets.{name}.images": len(files), f"datasets.{name}.hash": digest(files)}
    return values


def data_files(datamodule: SRDataModule, stage: str) -> dict[str, list[Path]]:
    """Return the picture files of a stage by data set: ``train``, ``val.NAME`` or ``test.NAME``."""
    sets = {}
    if stage == "fit" and datamodule.samples is not None:
        sets["train"] = list(datamodule.samples.images.paths)
    prefix, found = ("test", datamodule.test_sets) if stage == "test" else ("val", datamodule.val_sets)
    return sets | {f"{prefix}.{s.dataset}": list(s.images.paths) for s in found}


def digest(files: Sequence[Path]) -> str:
    """Return 16 digits that identify pictures by their names and contents, wherever they lie.

    Sets of more than 8 GiB are identified by names and sizes; the result then starts with ``size-``.
    """
    sizes = [path.stat().st_size for path in files]
    whole = sum(sizes) <= CONTENT_LIMIT
    with ThreadPoolExecutor() as pool:  # hashing releases Python's lock
        contents = list(pool.map(content, files)) if whole else [str(size) for size in sizes]
    lines = sorted(f"{path.name} {content}\n" for path, content in zip(files, contents, strict=True))
    value = hashlib.sha256("".join(lines).encode()).hexdigest()[:16]
    return value if whole else f"size-{value}"


def content(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


OmegaConf.register_new_resolver("run_title", run_title, replace=True)
OmegaConf.register_new_resolver("run_group", run_group, replace=True)
OmegaConf.register_new_resolver("run_tags", run_tags, replace=True)
OmegaConf.register_new_resolver("run_notes", run_notes, replace=True)
