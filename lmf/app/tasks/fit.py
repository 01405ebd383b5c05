"""Task ``fit``: trains a model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lmf import checkpoint
from lmf.app import runs, tracking
from lmf.app.tasks.common import build, check_data, device_of, last_config, report, save_config
from lmf.app.tasks.options import flag
from lmf.app.tasks.trainer import make_trainer
from lmf.errors import UserError, one_line
from lmf.model import SRModel
from lmf.training.distillation import Teacher
from lmf.training.module import SRModule
from lmf.training.ranks import is_rank_zero
from lmf.training.results import Results
from lmf.training.resume import changes

if TYPE_CHECKING:
    from lmf.data import SRDataModule

log = logging.getLogger(__name__)

# The state in a checkpoint depends on these.
FIXED = ("schedule.iterations", "schedule.cached_crops", "schedule.ema", "schedule.optimizer._target_")
UNRELATED = ("ckpt_path", "callbacks", "hydra", "logger", "name", "paths", "recipe", "task")


def run(config: DictConfig) -> None:
    """Train the model of ``config`` in the run folder and, with ``config.task.test``, test its best checkpoint.

    Raises:
        UserError: if options, data or checkpoints do not fit. All are checked before training starts.
    """
    output, test = Path(config.paths.output), flag("task.test", config.task.test)
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
        loss=instantiate(schedule.loss),
        teacher=make_teacher(config),
    )
    check_optimizer(module)
    if resume is not None:
        announce_changes(config, resume)
        datamodule.resume(check_resume(resume, model))
    check_data(datamodule, "fit")
    if test:
        check_data(datamodule, "test")
    save_config(config, output)
    announce(config, model, resume)
    trainer = make_trainer(config, tracking.facts(config, datamodule))
    trainer.fit(module, datamodule=datamodule, ckpt_path=resume, weights_only=True)
    metrics = trainer.callback_metrics
    if trainer.is_global_zero and "val/psnr" in metrics:
        psnr, bicubic = metrics["val/psnr"].item(), metrics["val/bicubic_psnr"].item()
        log.info(f"validation: {psnr:.2f} dB, bicubic {bicubic:.2f} dB ({psnr - bicubic:+.2f})")
        if not test:
            Results(module.results).save(output)  # the last validation; sweeps collect it
            log.info(f"measure it: lmf task=test ckpt_path={output}")
    elif trainer.is_global_zero and resume is not None and trainer.current_epoch >= config.trainer.max_epochs:
        log.info(f"finished already after {trainer.current_epoch} epochs; raise schedule.epochs to train longer")
    if test:
        found = checkpoint.find(output)
        trainer.test(module, datamodule=datamodule, ckpt_path=found, verbose=False, weights_only=True)
        report(trainer, module, output, title=config.name)


def check_optimizer(module: SRModule) -> None:
    """Check that the optimizer and the scheduler accept their options, before long work starts.

    Raises:
        UserError: if one does not.
    """
    try:
        module.configure_optimizers()
    except (TypeError, ValueError) as error:
        raise UserError(f"schedule.optimizer, schedule.scheduler: {one_line(error)}") from error


def make_teacher(config: DictConfig) -> Teacher | None:
    """Load the teacher of the schedule, if it has one.

    Raises:
        UserError: if it cannot be loaded or an option is out of range.
    """
    options = config.schedule.teacher
    if options is None:
        return None
    if config.schedule.cached_crops is not None:
        raise UserError(
            "schedule.teacher cannot see cached crops; set schedule.cached_crops=null or schedule.teacher=null"
        )
    model = checkpoint.load(options.model, trust=config.trust)
    return Teacher(model, options.weight, options.queries)


def initialise(model: SRModel, config: DictConfig) -> None:
    """Copy the weights of the checkpoint ``config.init_from`` to the encoder and, if they fit, to the decoder.

    They fit a decoder of the same class and the same shapes. Its other options, such as ``skip``, may differ.

    Raises:
        UserError: if the encoders differ and the one of ``model`` cannot grow from the other.
    """
    if config.init_from is None:
        return
    donor = checkpoint.load(config.init_from, trust=config.trust)
    ours, theirs = (
        {part: checkpoint.options(getattr(m, part), (m.config or {})[part]) for part in ("encoder", "decoder")}
        for m in (model, donor)
    )
    encoder = "encoder"
    if ours["encoder"] == theirs["encoder"]:
        model.encoder.load_state_dict(donor.encoder.state_dict())
    elif model.encoder.grow_from(donor.encoder):
        encoder = "encoder, which has more layers,"
    else:
        raise UserError(
            f"init_from={config.init_from}: its encoder is {theirs['encoder']}, the config wants {ours['encoder']}"
        )
    if copied := type(model.decoder) is type(donor.decoder) and shapes(model.decoder) == shapes(donor.decoder):
        model.decoder.load_state_dict(donor.decoder.state_dict(), strict=False)  # buffers depend on options
    if is_rank_zero():
        changed = {key: value for key, value in ours["decoder"].items() if theirs["decoder"].get(key, ...) != value}
        log.info(f"{encoder}{' and decoder' if copied else ''} from {config.init_from}")
        if not copied:
            log.info(f"the decoder starts anew, since that of {config.init_from} has other {', '.join(changed)}")
        elif changed:
            log.info(f"options of the decoder that are not those of {config.init_from}: {changed}")


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Return the shape of every parameter of ``module``."""
    return {name: parameter.shape for name, parameter in module.named_parameters()}


def make_data(config: DictConfig, model: SRModel) -> SRDataModule:
    """Return the datamodule to train ``model`` on. If the schedule caches crops, the encoder is frozen.

    Raises:
        UserError: if crops are to be cached, and the encoder is not trained or the decoder sees whole pictures.
    """
    schedule = config.schedule
    if schedule.cached_crops is None:
        pictures: SRDataModule = instantiate(config.data.module)
        return pictures
    if config.init_from is None:
        raise UserError(
            "schedule.cached_crops trains the decoder on features of a trained encoder; give init_from=MODEL"
        )
    if model.decoder.receptive_field is None:
        raise UserError(
            f"{type(model.decoder).__name__} looks at whole pictures and cannot be trained on windows of features; "
            "use schedule=finetune"
        )
    if model.decoder.multiple > 1:
        raise UserError(
            f"{type(model.decoder).__name__} depends on where a picture is cut and cannot be trained on windows of "
            "features; use schedule=finetune"
        )
    model.encoder.requires_grad_(False)
    features: SRDataModule = instantiate(
        config.data.module,
        _target_="lmf.data.FeatureDataModule",
        encoder=model.encoder.eval(),
        encoder_input=model.decoder.encoder_input,
        margin=model.decoder.receptive_field,
        crops=schedule.cached_crops,
        crop_side=schedule.crop_side,
        device=device_of(config),
    )
    return features


def resumable(config: DictConfig, output: Path) -> Path | None:
    """Return the checkpoint that this run resumes; None for a new run.

    Raises:
        UserError: if there is no such checkpoint, or if a new run would write to the folder of another one.
    """
    if config.ckpt_path is None:
        runs.check_new(output)
        return None
    if config.ckpt_path == "last":
        path = output / runs.LAST
        if not path.is_file():
            raise UserError(f"ckpt_path=last: no run to resume in {output.parent}; start without ckpt_path")
        return path
    path = Path(config.ckpt_path)
    path = path / runs.LAST if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint to resume")
    return path


def check_resume(path: Path, model: SRModel) -> int:
    """Check that the checkpoint at ``path`` belongs to ``model`` and return the number of batches it was trained on.

    Raises:
        CheckpointError: if it is not a training checkpoint, belongs to another model or has non-finite weights.
    """
    saved = checkpoint.unpickle(path)
    try:
        theirs, loops = saved["lmf"]["config"], saved["loops"]["fit_loop"]
        batches = int(loops["epoch_loop.batch_progress"]["total"]["ready"])
    except (KeyError, TypeError) as error:
        raise checkpoint.CheckpointError(f"{path}: not a training checkpoint of this project") from error
    for part in ("encoder", "decoder"):
        if theirs[part] != (model.config or {})[part]:
            raise checkpoint.CheckpointError(
                f"{path}: its {part} is {theirs[part]}, the config wants {(model.config or {})[part]}"
            )
    checkpoint.check_finite(saved["state_dict"], path)
    return batches


def announce_changes(config: DictConfig, resume: Path) -> None:
    """Log the options that have changed since the run of the checkpoint ``resume`` was last trained.

    Raises:
        UserError: if one of them cannot change within a run.
    """
    before = last_config(resume.parent.parent)
    if before is None:
        return
    now = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    for name, old, new in changes(before, now, ignore=UNRELATED):
        if name in FIXED:
            raise UserError(
                f"{name}={new}: the run was started with {old}, which cannot change; keep it, or start a new run with "
                f"init_from={resume}"
            )
        if is_rank_zero() and not name.startswith("data.module."):  # these are derived from other options
            log.info(f"changed from here on: {name} from {old} to {new}")


def announce(config: DictConfig, model: SRModel, resume: Path | None) -> None:
    """Log the model, the schedule and the run folder."""
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
        log.info("schedule=quick is a short demonstration; the published recipe is data=div2k schedule=paper")
    log.info(f"{'resuming ' + str(resume) if resume else 'run folder'}: {config.paths.output}")
