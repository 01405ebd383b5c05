"""Measuring a checkpoint over test sets and scales."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig

from lmf.app import runs
from lmf.app.tasks.common import check_data, load, save_config
from lmf.app.tasks.trainer import make_trainer
from lmf.training.module import SRModule
from lmf.training.results import Results

log = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
    output = Path(config.paths.output)
    runs.check_output(output)
    title = str(config.ckpt_path or config.name)
    model = load(config)
    datamodule = instantiate(config.data, **({} if config.scale is None else {"scales": [config.scale]}))
    check_data(datamodule, "test")
    save_config(config, output)
    module = SRModule(model, seed=config.seed)
    trainer = make_trainer(config)
    trainer.test(module, datamodule=datamodule, verbose=False)
    report(trainer, output, title)


def report(trainer: L.Trainer, output: Path, title: str) -> None:
    """Writes and shows what ``trainer`` has just measured."""
    if trainer.is_global_zero:
        results = Results.collect(trainer.datamodule.test_sets, trainer.callback_metrics)  # type: ignore[attr-defined]
        results.save(output)
        results.show(title)
        log.info(f"results: {output}")
