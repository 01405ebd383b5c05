"""Training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig

from lmf import checkpoint
from lmf.app import runs
from lmf.app.tasks.common import build, check_data, device_of, save_config
from lmf.app.tasks.test import report
from lmf.app.tasks.trainer import make_trainer
from lmf.errors import UserError, one_line
from lmf.model import SRModel
from lmf.training.module import SRModule

if TYPE_CHECKING:
    from lmf.data import SRDataModule

from lmf.training.ranks import is_rank_zero

log = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
    output = Path(config.paths.output)
    resume = resumable(config, output)
    model = build(config)
    initialise(model, config)
    datamodule = make_data(config, model)
    schedule = config.schedule
    module = SRModule(
        model,
        optimizer=instantiate(schedule.optimizer, _convert_="all"),
        scheduler=instantiate(schedule.scheduler, _convert_="all"),
        interval=schedule.interval,
        seed=config.seed,
    )
    check_optimizer(module)
    if resume is not None:
        datamodule.resume(check_resume(resume, model))
    check_data(datamodule, "fit")
    if config.task.test:
        check_data(datamodule, "test")
    save_config(config, output)
    announce(config, model, resume)
    trainer = make_trainer(config)
    trainer.fit(module, datamodule=datamodule, ckpt_path=resume, weights_only=True)
    metrics = trainer.callback_metrics
    if trainer.is_global_zero and "val/psnr" in metrics:
        psnr, bicubic = metrics["val/psnr"].item(), metrics["val/bicubic_psnr"].item()
        log.info(f"validation: {psnr:.2f} dB, bicubic {bicubic:.2f} dB ({psnr - bicubic:+.2f})")
        if not config.task.test:
            log.info(f"measure it: python run.py task=test ckpt_path={output}")
    if config.task.test:
        found = checkpoint.find(output)
        trainer.test(module, datamodule=datamodule, ckpt_path=found, verbose=False, weights_only=True)
        report(trainer, module, output, title=config.name)


def check_optimizer(module: SRModule) -> None:
    """Refuses options that the optimizer or the scheduler does not take, before anything slow starts."""
    try:
        module.configure_optimizers()
    except (TypeError, ValueError) as error:
        raise UserError(f"schedule.optimizer, schedule.scheduler: {one_line(error)}") from error


def initialise(model: SRModel, config: DictConfig) -> None:
    """Gives ``model`` the parts of the checkpoint ``init_from`` that are of the same make."""
    if config.init_from is None:
        return
    donor = checkpoint.load(config.init_from, trust=config.trust)
    ours, theirs = model.config or {}, donor.config or {}
    if ours["encoder"] != theirs["encoder"]:
        raise UserError(
            f"init_from={config.init_from}: its encoder is {theirs['encoder']}, the config asks for {ours['encoder']}"
        )
    parts = [part for part in ("encoder", "decoder") if ours[part] == theirs[part]]
    for part in parts:
        getattr(model, part).load_state_dict(getattr(donor, part).state_dict())
    if is_rank_zero():
        log.info(f"{' and '.join(parts)} from {config.init_from}")


def make_data(config: DictConfig, model: SRModel) -> SRDataModule:
    """The data to train ``model`` on. Where the schedule caches crops, the encoder is frozen as it is now."""
    schedule = config.schedule
    if schedule.cached_crops is None:
        return instantiate(config.data.module)
    if config.init_from is None:
        raise UserError(
            "schedule.cached_crops trains the decoder on features of a trained encoder: give init_from=MODEL"
        )
    if model.decoder.receptive_field is None:
        raise UserError(
            f"{type(model.decoder).__name__} looks at whole pictures and cannot be trained on windows of features; "
            "take schedule=finetune"
        )
    model.encoder.requires_grad_(False)
    return instantiate(
        config.data.module,
        _target_="lmf.data.FeatureDataModule",
        encoder=model.encoder.eval(),
        margin=model.decoder.receptive_field,
        crops=schedule.cached_crops,
        crop_side=schedule.crop_side,
        device=device_of(config),
    )


def resumable(config: DictConfig, output: Path) -> Path | None:
    """The checkpoint that this run continues, or None."""
    if config.ckpt_path is None:
        if (output / runs.LAST).is_file() and is_rank_zero() and runs.sweep_name() is None:
            raise UserError(
                f"{output} holds a run already: ckpt_path={output} goes on with it, another hydra.run.dir starts anew"
            )
        return None
    if config.ckpt_path == "last":
        path = output / runs.LAST
        if not path.is_file():
            raise UserError(f"ckpt_path=last: nothing to resume in {output.parent}; start without it")
        return path
    path = Path(config.ckpt_path)
    path = path / runs.LAST if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint to resume")
    return path


def check_resume(path: Path, model: SRModel) -> int:
    """How many training batches the checkpoint at ``path`` has seen; refuses one of another model."""
    saved = checkpoint.unpickle(path)
    try:
        theirs, loops = saved["lmf"]["config"], saved["loops"]["fit_loop"]
        batches = int(loops["epoch_loop.batch_progress"]["total"]["ready"])
    except (KeyError, TypeError) as error:
        raise checkpoint.CheckpointError(f"{path}: not a training checkpoint of this project") from error
    for part in ("encoder", "decoder"):
        if theirs[part] != (model.config or {})[part]:
            raise checkpoint.CheckpointError(
                f"{path}: its {part} is {theirs[part]}, the config asks for {(model.config or {})[part]}"
            )
    checkpoint.check_finite(saved["state_dict"], path)
    return batches


def announce(config: DictConfig, model: SRModel, resume: Path | None) -> None:
    """Says what is about to be trained, how, and where it goes."""
    if not is_rank_zero():
        return
    schedule = config.schedule
    steps = schedule.epochs * schedule.iterations
    log.info(
        f"{config.name}: {type(model.encoder).__name__} + {type(model.decoder).__name__} (skip: {model.decoder.skip}), "
        f"schedule {schedule.name}: {steps} steps of {schedule.batch_size} x {schedule.patch} x {schedule.patch}, "
        f"scale {schedule.min_scale:g} to {schedule.max_scale:g}"
    )
    if schedule.name == "quick":
        log.info("a quick demonstration, not the published recipe: that is data=div2k schedule=paper")
    log.info(f"{'resuming ' + str(resume) if resume else 'run folder'}: {config.paths.output}")
