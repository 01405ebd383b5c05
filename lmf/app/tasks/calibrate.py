"""Task ``calibrate``: measures the CMSR tables of a model."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig

from lmf.app import version
from lmf.app.tasks.common import checkpoint_file, load
from lmf.app.tasks.options import flag
from lmf.calibration import Pictures, calibrate, overview
from lmf.data import DataError, Folder
from lmf.errors import UserError
from lmf.renderers.cmsr import tables
from lmf.training.results import console
from lmf.weights import bundled

log = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
    """Measure CMSR tables on a folder of pictures and write them beside the checkpoint or to ``config.output``.

    Unlike all other tasks this one writes to the folder of the run that it reads: the tables, and until they are
    complete a hidden folder beside them.

    Raises:
        UserError: if no model is chosen, a pretrained model's tables would be replaced, or the precision is not
            ``32-true``.
        DataError: if there are no pictures.
    """
    if str(config.trainer.precision) not in ("32", "32-true"):
        raise UserError(f"precision={config.trainer.precision}: task=calibrate measures in 32-true only")
    path = checkpoint_file(config)
    if config.output is None and path in bundled().values():
        raise UserError(
            f"{path.stem} has tables already; give output=FILE.cmsr.yaml to write others, or ckpt_path=MODEL"
        )
    model = load(config)
    output = Path(config.output) if config.output else tables.beside(path)
    if output.is_file():
        log.info(f"replaces the tables in {output}")
    source = Folder(config.input) if config.input else instantiate(config.data.train)
    if source is None:
        raise DataError("this data has no training pictures; give input=FOLDER")
    options = {
        "reduce": flag("reduce", config.reduce),
        "limit": config.limit,
        "crop": config.crop,
        "on_corrupt": config.on_corrupt,
    }
    trainer = config.trainer
    fabric = L.Fabric(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        strategy=trainer.get("strategy", "auto"),
    )
    fabric.launch()
    if fabric.is_global_zero:
        source.prepare()
    fabric.barrier()
    measured = calibrate(
        model.to(fabric.device),
        [Pictures(source, scale, **options) for scale in sorted(config.scales)],
        instantiate(config.estimator, _convert_="all"),
        output,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        barrier=fabric.barrier,
        version=version.fingerprint(),
    )
    if fabric.is_global_zero:
        console().print(overview(measured))
        log.info(f"{output}: tables for x{', x'.join(f'{s:g}' for s in measured.tables)}; use them with renderer=cmsr")
