"""Task ``test``: measures a model on test sets at several scales."""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from lmf.app import runs, tracking
from lmf.app.tasks.common import check_data, load, report, save_config, self_ensemble
from lmf.app.tasks.trainer import make_trainer
from lmf.training.module import SRModule


def run(config: DictConfig) -> None:
    """Measure the trained model and write ``results.csv`` and ``results.json`` to the run folder.

    Raises:
        UserError: if no model is chosen, or the run folder holds other results.
        DataError: if test data is missing or unsuitable.
    """
    output = Path(config.paths.output)
    runs.check_output(output)
    title = str(config.ckpt_path or config.name)
    averaged = self_ensemble(config)
    model = load(config)
    datamodule = instantiate(
        config.data.module, **({} if config.scale is None else {"test_settings": {"scales": [config.scale]}})
    )
    check_data(datamodule, "test")
    save_config(config, output)
    module = SRModule(model, seed=config.seed, self_ensemble=averaged)
    trainer = make_trainer(config, tracking.facts(config, datamodule, "test"))
    trainer.test(module, datamodule=datamodule, verbose=False)
    report(trainer, module, output, title)
