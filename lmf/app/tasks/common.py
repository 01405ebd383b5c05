"""Functions that several tasks share."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from lmf import checkpoint
from lmf.app import runs
from lmf.app.overrides import split
from lmf.errors import UserError, one_line
from lmf.io.files import write_text
from lmf.model import SRModel
from lmf.renderers import Renderer
from lmf.renderers.cmsr import tables
from lmf.training.loggers import log_rows
from lmf.training.module import SRModule
from lmf.training.ranks import is_rank_zero
from lmf.training.results import Results

if TYPE_CHECKING:
    from lmf.data import SRDataModule

log = logging.getLogger(__name__)


def build(config: DictConfig) -> SRModel:
    """Build the model that ``encoder``, ``decoder`` and ``renderer`` of ``config`` describe.

    Raises:
        UserError: if a class or option does not exist, or the parts do not fit together.
    """
    parts: dict[str, Any] = {part: OmegaConf.to_container(config[part], resolve=True) for part in checkpoint.PARTS}
    trust = [str(part["_target_"]).partition(".")[0] for part in parts.values()]
    return checkpoint.build(parts, trust=trust)


def load(config: DictConfig) -> SRModel:
    """Load the trained model of a task, give it the renderer of ``config``, and update ``config`` to describe it.

    ``config.encoder``, ``config.decoder``, ``config.ckpt_path`` and ``config.renderer.tables`` are replaced by those of
    the model, so that the saved config describes the model that ran. If no model is chosen (see `source`), the encoder
    and decoder of ``config`` are built, provided that they have no weights (bicubic interpolation).

    Raises:
        UserError: if no model is chosen, or if overrides or the experiment contradict the model.
    """
    chosen = source(config)
    if chosen is None:
        model = build(config)
        if any(True for _ in model.parameters()):
            experiment = experiment_of(config)
            reason = f"experiment={experiment} has no pretrained model; " if experiment else ""
            raise UserError(f"which model? {reason}give ckpt_path=: {checkpoint.SOURCES}")
        return model.eval()
    path = checkpoint.find(chosen)
    model = checkpoint.load(path, trust=config.trust)
    check_parts(config, model, path)
    given = "" if config.ckpt_path is not None else "no ckpt_path given, "
    with open_dict(config):
        for part in ("encoder", "decoder"):
            config[part] = (model.config or {})[part]
        config.ckpt_path = str(path)
        if config.renderer.get("tables", ...) is None:
            config.renderer.tables = str(tables.beside(path))
    if is_rank_zero():
        log.info(f"{given}model: {path} ({type(model.encoder).__name__} + {type(model.decoder).__name__})")
    model.renderer = make_renderer(config, model, path)
    return model


def source(config: DictConfig) -> str | Path | None:
    """Choose what the trained model of a task is loaded from. All tasks except training use this rule.

    The first of these that is set wins:

    1. ``ckpt_path``; ``last`` means the last training under ``runs/name``, or under ``runs`` if neither the command
       line nor an experiment names the run.
    2. ``pretrained``, set by experiments that have a trained model.
    3. Without an experiment, the default of the task: ``lm_liif_edsr`` for ``task=upscale``.

    Returns:
        Anything that `lmf.load` accepts; None if no model is chosen.

    Raises:
        UserError: if ``ckpt_path=last`` and there is no run yet.
    """
    if config.ckpt_path == "last":
        folder = Path(config.paths.runs)
        named = config.name != config.task.name
        last = runs.last_run(*([folder / config.name] if named else sorted(folder.glob("*"))))
        if last is None:
            raise UserError(f"ckpt_path=last: no run in {folder / (config.name if named else '*')} yet; give a path")
        return last
    chosen = config.ckpt_path if config.ckpt_path is not None else config.pretrained
    if chosen is None and experiment_of(config) is None:
        chosen = config.task.get("pretrained")
    return None if chosen is None else str(chosen)


def experiment_of(config: DictConfig) -> str | None:
    """Return the name of the experiment on the command line; None if there is none."""
    return HydraConfig.get().runtime.choices.get("experiment")


def checkpoint_file(config: DictConfig) -> Path:
    """Return the checkpoint file of the trained model of a task, see `source`.

    Raises:
        UserError: if no model is chosen.
    """
    chosen = source(config)
    if chosen is None:
        raise UserError(f"which model? give ckpt_path=: {checkpoint.SOURCES}")
    return checkpoint.find(chosen)


def check_parts(config: DictConfig, model: SRModel, path: Path) -> None:
    """Check that the experiment and the overrides of encoder and decoder agree with the loaded ``model``.

    Overrides that agree are allowed, so that the options of the training command also work for a test.

    Args:
        config: the composed config.
        model: the model from ``path``.
        path: checkpoint file, for the message.

    Raises:
        UserError: if one does not agree.
    """
    wanted: dict[str, Any] = {p: OmegaConf.to_container(config[p], resolve=True) for p in ("encoder", "decoder")}
    actual = {part: checkpoint.options(getattr(model, part), (model.config or {})[part]) for part in wanted}
    wrong = []
    for override in HydraConfig.get().overrides.task:
        part, _, key = split(override)[0].partition(".")
        if part in wanted:
            first = (key or "_target_").partition(".")[0]
            if wanted[part].get(first, ...) != actual[part].get(first, ...):
                wrong.append(override)
    if wrong:
        raise UserError(f"{', '.join(wrong)}: cannot change the model of {path}, which is {actual}; remove it")
    experiment = experiment_of(config)
    for part in wanted:
        if experiment is not None and wanted[part]["_target_"] != actual[part]["_target_"]:
            raise UserError(
                f"experiment={experiment} has the {part} {wanted[part]['_target_']}, {path} holds a "
                f"{actual[part]['_target_']}; remove the experiment or give one of its models"
            )


def make_renderer(config: DictConfig, model: SRModel, path: Path) -> Renderer:
    """Build the renderer of ``config`` and check that it fits ``model``.

    Args:
        config: the composed config.
        model: the model to render.
        path: its checkpoint. CMSR uses the tables beside it if ``config.renderer.tables`` is null. If
            ``config.renderer.dense`` is null, it renders densely where that is faster in task ``upscale``, and never
            in tasks that measure it.

    Raises:
        UserError: if the renderer does not fit the model, or its tables are missing.
    """
    options = OmegaConf.to_container(config.renderer, resolve=True)
    assert isinstance(options, dict)
    if options.get("tables", ...) is None:
        options["tables"] = str(tables.beside(path))
    if options.get("dense", ...) is None:
        options["dense"] = "measured" if config.task.name == "upscale" else "never"
    renderer: Renderer = instantiate(options)
    renderer.check(model)
    return renderer


def device_of(config: DictConfig) -> torch.device:
    """Return the device on which the trainer of ``config`` would put a model, for tasks without a trainer."""
    return L.Fabric(accelerator=config.trainer.accelerator, devices=1).device


def devices_of(config: DictConfig) -> list[torch.device]:
    """Return the devices that ``config.trainer`` chooses on this machine, for tasks without a trainer."""
    fabric = L.Fabric(accelerator=config.trainer.accelerator, devices=config.trainer.devices)
    return list(getattr(fabric.strategy, "parallel_devices", None) or [fabric.device])


def save_config(config: DictConfig, output: Path) -> None:
    """Write the resolved config to ``config.yaml``; a resumed run adds ``config-1.yaml``, ``config-2.yaml``, ..."""
    if not is_rank_zero():
        return
    output.mkdir(parents=True, exist_ok=True)
    path, number = output / "config.yaml", 0
    while path.exists():
        number += 1
        path = output / f"config-{number}.yaml"
    write_text(path, OmegaConf.to_yaml(config, resolve=True))


def last_config(run: Path) -> dict[str, Any] | None:
    """Return the config that the run folder ``run`` was last trained with, or None if it has none.

    Raises:
        UserError: if the file is damaged.
    """
    resumed = [path for path in run.glob("config-*.yaml") if path.stem[7:].isdecimal()]
    path = max(resumed, key=lambda path: int(path.stem[7:]), default=run / "config.yaml")
    if not path.is_file():
        return None
    try:
        config = yaml.safe_load(path.read_text())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable as YAML ({one_line(error, limit=200)})") from error
    return config if isinstance(config, dict) and "schedule" in config else None  # else of another program


def check_data(datamodule: SRDataModule, stage: Literal["fit", "test"]) -> None:
    """Download and check the data of ``stage`` before long work starts.

    Raises:
        DataError: if data is missing or unsuitable.
    """
    if is_rank_zero():  # the other ranks wait for it in the trainer
        datamodule.prepare(stage)
        datamodule.setup(stage)


def report(trainer: L.Trainer, module: SRModule, output: Path, title: str) -> None:
    """Write, log and print the results that ``trainer`` has just measured with ``module``.

    Args:
        trainer: after ``trainer.test``.
        module: holds the results.
        output: folder to write to.
        title: of the printed table.
    """
    if trainer.is_global_zero:
        results = Results(module.results)
        results.save(output)
        log_rows(trainer.loggers, "test/results", [row.columns() for row in results.rows])
        results.show(title)
        log.info(f"results: {output}")
