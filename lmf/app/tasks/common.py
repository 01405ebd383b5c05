"""What several tasks share."""

from __future__ import annotations

import inspect
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from lmf import checkpoint
from lmf.app import runs
from lmf.app.overrides import split
from lmf.errors import UserError
from lmf.io.files import write_text
from lmf.model import SRModel
from lmf.renderers import Renderer
from lmf.renderers.cmsr import tables

if TYPE_CHECKING:
    from lmf.data import SRDataModule

from lmf.training.ranks import is_rank_zero

log = logging.getLogger(__name__)


def build(config: DictConfig) -> SRModel:
    """The model that encoder, decoder and renderer of ``config`` describe."""
    parts = {part: OmegaConf.to_container(config[part], resolve=True) for part in checkpoint.PARTS}
    trust = [str(part["_target_"]).partition(".")[0] for part in parts.values()]  # type: ignore[index, call-overload]
    return checkpoint.build(parts, trust=trust)


def load(config: DictConfig) -> SRModel:
    """The trained model that a task works on, rendered as ``config.renderer`` says; ``config`` then describes it.

    ``config.encoder``, ``config.decoder`` and ``config.ckpt_path`` become those of the model, so that a record of
    ``config`` is one of the model that ran. Where no model is chosen (see `source`), the encoder and decoder of
    ``config`` are built if they need no weights, as bicubic interpolation does.

    Raises:
        UserError: no model is chosen, or overrides or the experiment contradict it.
    """
    chosen = source(config)
    if chosen is None:
        model = build(config)
        if any(True for _ in model.parameters()):
            experiment = experiment_of(config)
            reason = f"experiment={experiment} has no pretrained one; " if experiment else ""
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
    if is_rank_zero():
        log.info(f"{given}model: {path} ({type(model.encoder).__name__} + {type(model.decoder).__name__})")
    model.renderer = make_renderer(config, model, path)
    return model


def source(config: DictConfig) -> str | Path | None:
    """What the trained model of a task is loaded from: the one rule for every task but training.

    1. ``ckpt_path``, where ``last`` is the last run under ``runs/name``;
    2. else ``pretrained``, which an experiment with a trained model names;
    3. else, without an experiment, what the task names: ``lm_liif_edsr`` for ``task=upscale``;
    4. else nothing: None.

    Raises:
        UserError: ``last``, and there is no run yet.
    """
    if config.ckpt_path == "last":
        last = runs.last_run(Path(config.paths.runs, config.name))
        if last is None:
            raise UserError(f"ckpt_path=last: no run of {config.name} yet; give experiment=NAME or a path")
        return last
    if config.ckpt_path is not None:
        return config.ckpt_path
    if config.pretrained is not None:
        return config.pretrained
    return config.task.get("pretrained") if experiment_of(config) is None else None


def experiment_of(config: DictConfig) -> str | None:
    """The experiment that the command line chose."""
    return HydraConfig.get().runtime.choices.get("experiment")


def checkpoint_file(config: DictConfig) -> Path:
    """The file of the trained model that a task works on.

    Raises:
        UserError: none is chosen, see `source`.
    """
    chosen = source(config)
    if chosen is None:
        raise UserError(f"which model? give ckpt_path=: {checkpoint.SOURCES}")
    return checkpoint.find(chosen)


def check_parts(config: DictConfig, model: SRModel, path: Path) -> None:
    """Refuses an experiment, and overrides of encoder or decoder, that do not describe the loaded ``model``.

    The weights decide what the model is. Overrides that agree with it are allowed, so that the command that trained
    a model also measures it.
    """
    wanted: dict[str, Any] = {p: OmegaConf.to_container(config[p], resolve=True) for p in ("encoder", "decoder")}
    actual = {part: options(getattr(model, part), (model.config or {})[part]) for part in wanted}
    wrong = []
    for override in HydraConfig.get().overrides.task:
        part, _, key = split(override)[0].partition(".")
        if part in wanted:
            first = (key or "_target_").partition(".")[0]
            if wanted[part].get(first, ...) != actual[part].get(first, ...):
                wrong.append(override)
    if wrong:
        raise UserError(f"{', '.join(wrong)}: cannot change the model of {path}, which is {actual}; leave it out")
    experiment = experiment_of(config)
    for part in wanted:
        if experiment is not None and wanted[part]["_target_"] != actual[part]["_target_"]:
            raise UserError(
                f"experiment={experiment} has the {part} {wanted[part]['_target_']}, {path} holds a "
                f"{actual[part]['_target_']}; leave the experiment out or give one of its models"
            )


def options(part: nn.Module, config: dict[str, Any]) -> dict[str, Any]:
    """``config`` of an encoder or decoder with the defaults of its class, in plain types."""
    defaults = {k: p.default for k, p in inspect.signature(type(part)).parameters.items() if p.default is not p.empty}
    return json.loads(json.dumps({**defaults, **config}))


def make_renderer(config: DictConfig, model: SRModel, path: Path) -> Renderer:
    """The renderer of ``config``; CMSR without tables takes those beside the checkpoint at ``path``."""
    options = OmegaConf.to_container(config.renderer, resolve=True)
    assert isinstance(options, dict)
    if options.get("tables", ...) is None:
        options["tables"] = str(tables.beside(path))
    renderer = instantiate(options)
    renderer.check(model)
    return renderer


def device_of(config: DictConfig) -> torch.device:
    """Where the trainer of ``config`` would put a model, for tasks that run in one process without it."""
    return L.Fabric(accelerator=config.trainer.accelerator, devices=1).device


def save_config(config: DictConfig, output: Path) -> None:
    """The resolved config as ``config.yaml``; a resumed run adds ``config-1.yaml``, ``config-2.yaml``, ..."""
    if not is_rank_zero():
        return
    output.mkdir(parents=True, exist_ok=True)
    path, number = output / "config.yaml", 0
    while path.exists():
        number += 1
        path = output / f"config-{number}.yaml"
    write_text(path, OmegaConf.to_yaml(config, resolve=True))


def check_data(datamodule: SRDataModule, stage: Literal["fit", "test"]) -> None:
    """Complains about missing or unfit data before anything slow starts; downloads it where the data can."""
    if is_rank_zero():  # the other ranks find it done, or wait for it in the trainer
        datamodule.prepare_data()
        datamodule.setup(stage)
