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
from lmf.training.loggers import log_table
from lmf.training.module import SRModule
from lmf.training.results import Results

log = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
    output = Path(config.paths.output)
    runs.check_output(output)
    title = str(config.ckpt_path or config.name)
    model = load(config)
    datamodule = instantiate(
        config.data.module, **({} if config.scale is None else {"test_settings": {"scales": [config.scale]}})
    )
    check_data(datamodule, "test")
    save_config(config, output)
    module = SRModule(model, seed=config.seed)
    trainer = make_trainer(config)
    trainer.test(module, datamodule=datamodule, verbose=False)
    report(trainer, module, output, title)


def report(trainer: L.Trainer, module: SRModule, output: Path, title: str) -> None:
    """Writes and shows what ``trainer`` has just measured with ``module``."""
    if trainer.is_global_zero:
        results = Results(module.results)
        results.save(output)
        log_table(trainer.loggers, results)
        results.show(title)
        log.info(f"results: {output}")
