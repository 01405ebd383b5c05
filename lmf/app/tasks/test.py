"""Task ``test``: measures a model on test sets at several scales."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from lmf.app import runs, tracking
from lmf.app.identity import identity
from lmf.app.tasks.common import check_data, load, report, save_config
from lmf.app.tasks.options import flag
from lmf.app.tasks.trainer import make_trainer
from lmf.training.callbacks import RecordsCallback
from lmf.training.module import SRModule
from lmf.training.ranks import watching


def run(config: DictConfig) -> None:
    """Measure the trained model and write ``results.csv`` and ``results.json`` to the run folder.

    The values of every picture are written at once. If the test is interrupted, another one in the same run folder
    continues with the pictures that are missing; multi-scale rendering is compared on all pictures again.

    Raises:
        UserError: if no model is chosen, or the run folder holds other results.
        DataError: if test data is missing or unsuitable.
    """
    output = Path(config.paths.output)
    runs.check_output(output)
    title = str(config.ckpt_path or config.name)
    same = identity(config)
    averaged = flag("self_ensemble", config.self_ensemble)
    save_images = flag("save_images", config.save_images)
    model = load(config)
    datamodule = instantiate(
        config.data.module, **({} if config.scale is None else {"test_settings": {"scales": [config.scale]}})
    )
    check_data(datamodule, "test")
    save_config(config, output)
    module = SRModule(model, seed=config.seed, self_ensemble=averaged)
    records = RecordsCallback(output, same, save_images, resume=not model.renderer.multi_scale)
    trainer = make_trainer(config, tracking.facts(config, datamodule, "test"), records)
    started = partial(getattr, trainer.strategy.launcher, "procs", ())  # by Lightning, on several devices
    with watching(started, f"the same command with hydra.run.dir={output} continues"):
        trainer.test(module, datamodule=datamodule, verbose=False)
    report(trainer, module, output, title)
