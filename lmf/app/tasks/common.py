"""What several tasks share."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lmf import checkpoint
from lmf.app import runs
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
    """The model of ``ckpt_path``, rendered as ``config.renderer`` says; without one, that which is in the box for the
    experiment, or what ``config`` describes if that needs no weights."""
    if config.ckpt_path is None and config.pretrained is None:
        model = build(config)
        if any(True for _ in model.parameters()):
            raise ValueError(f"which model? give ckpt_path=: {checkpoint.SOURCES}")
        return model.eval()
    path = checkpoint_file(config)
    model = checkpoint.load(path, trust=config.trust)
    model.renderer = make_renderer(config, model, path)
    return model


def checkpoint_file(config: DictConfig) -> Path:
    """The file that ``ckpt_path``, or else ``pretrained``, means."""
    path = config.ckpt_path
    if path is None:
        path = config.pretrained
        log.info(f"no ckpt_path given: {path}, in the box")
    if path == "last":
        experiment = HydraConfig.get().runtime.choices.get("experiment") or config.name
        path = runs.last_run(Path(config.paths.runs, experiment))
        if path is None:
            raise ValueError(f"ckpt_path=last: no run of {experiment} yet; give experiment=NAME or a path")
    return checkpoint.find(path)


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
    path.write_text(OmegaConf.to_yaml(config, resolve=True))


def check_data(datamodule: SRDataModule, stage: Literal["fit", "test"]) -> None:
    """Complains about missing or unfit data before anything slow starts; downloads it where the data can."""
    if is_rank_zero():  # the other ranks find it done, or wait for it in the trainer
        datamodule.prepare_data()
        datamodule.setup(stage)
