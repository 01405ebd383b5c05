"""From a composed config to a finished task. Below this module nothing sees a config object."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lmf import checkpoint, runs, upscale
from lmf.model import SRModel
from lmf.module import SRModule
from lmf.report import Results

log = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
    """Runs ``config.task``. What a user can mend is one line on stderr and exit status 1."""
    task = TASKS[config.task.name]
    try:
        with runs.job(Path(config.paths.output)):
            L.seed_everything(config.seed, workers=True, verbose=False)
            task(config)
    except USER_ERRORS as error:
        if HydraConfig.get().verbose:
            raise
        message = checkpoint.one_line(root_cause(error), limit=1000)
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # the other jobs go on; Hydra reports at the end
            raise JobError(message) from error
        log.error(message)
        sys.exit(1)


class JobError(RuntimeError):
    """A job of a multirun that failed for a reason its message gives."""


USER_ERRORS = (ValueError, OSError, InstantiationException, OmegaConfBaseException)


def root_cause(error: BaseException) -> BaseException:
    """What Hydra's instantiation errors wrap."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def fit(config: DictConfig) -> None:
    output = Path(config.paths.output)
    resume = resumable(config, output)
    model = build(config)
    datamodule = instantiate(config.data)
    schedule = config.schedule
    module = SRModule(
        model,
        optimizer=instantiate(schedule.optimizer, _convert_="all"),
        scheduler=instantiate(schedule.scheduler, _convert_="all"),
        interval=schedule.interval,
        seed=config.seed,
    )
    if resume is not None:
        datamodule.resume(check_resume(resume, model))
    datamodule.setup("fit")  # complains about missing data before anything slow starts
    trainer = make_trainer(config)
    save_config(config, output)
    announce(config, model, datamodule, resume)
    trainer.fit(module, datamodule=datamodule, ckpt_path=resume, weights_only=True)
    if trainer.interrupted:
        sys.exit(130)
    summarise(trainer, output)


def test(config: DictConfig) -> None:
    output = Path(config.paths.output)
    model = load(config)
    datamodule = instantiate(config.data)
    datamodule.setup("test")
    trainer = make_trainer(config)
    save_config(config, output)
    module = SRModule(model, seed=config.seed)
    trainer.test(module, datamodule=datamodule, verbose=False)
    if trainer.is_global_zero:
        results = Results.collect(datamodule.test_sets, trainer.callback_metrics)
        results.save(output)
        results.show(title=str(config.ckpt_path or config.name))


def upscale_pictures(config: DictConfig) -> None:
    upscale.check_request(config.scale, config.size, config.format, config.quality)
    jobs = upscale.plan(config.input, config.output, config.scale, config.size, config.format, config.overwrite)
    size = list(config.size) if config.size else None
    failed = upscale.run(load(config), jobs, scale=config.scale, size=size, quality=config.quality)
    if failed:
        raise ValueError(f"{failed} of {len(jobs)} pictures failed; each is named above")


TASKS: dict[str, Callable[[DictConfig], None]] = {"fit": fit, "test": test, "upscale": upscale_pictures}


def build(config: DictConfig) -> SRModel:
    """The model that encoder, decoder and renderer of ``config`` describe."""
    parts = {part: OmegaConf.to_container(config[part], resolve=True) for part in checkpoint.PARTS}
    trust = [str(part["_target_"]).partition(".")[0] for part in parts.values()]  # type: ignore[index, call-overload]
    return checkpoint.build(parts, trust=trust)


def load(config: DictConfig) -> SRModel:
    """The model of ``ckpt_path``, rendered as ``config.renderer`` says; without one, what ``config`` describes if
    that needs no weights."""
    if config.ckpt_path is None:
        model = build(config)
        if any(True for _ in model.parameters()):
            raise ValueError("which model? give ckpt_path=: a run folder, a .ckpt, .safetensors or .pth")
        return model.eval()
    path = config.ckpt_path
    if path == "last":
        experiment = HydraConfig.get().runtime.choices.get("experiment") or config.name
        path = runs.last_run(Path(config.paths.runs, experiment))
        if path is None:
            raise ValueError(f"ckpt_path=last: no run of {experiment} yet; give experiment=NAME or a path")
    model = checkpoint.load(path, trust=config.trust)
    model.renderer = instantiate(config.renderer)
    return model


def make_trainer(config: DictConfig) -> L.Trainer:
    callbacks = [instantiate(c) for c in config.callbacks.values() if c]
    if config.task.name == "fit" and config.schedule.ema:
        from lightning.pytorch.callbacks import EMAWeightAveraging

        callbacks.append(EMAWeightAveraging(decay=config.schedule.ema))
    loggers = [instantiate(c, _convert_="all") for c in config.logger.values() if c]
    return instantiate(config.trainer, callbacks=callbacks, logger=[x for x in loggers if x is not None] or False)


def resumable(config: DictConfig, output: Path) -> Path | None:
    """The checkpoint that this run continues, or None."""
    if config.ckpt_path is None:
        return None
    if config.ckpt_path == "last":
        path = output / runs.LAST
        if not path.is_file():
            raise ValueError(f"ckpt_path=last: nothing to resume in {output.parent}; start without it")
        return path
    path = Path(config.ckpt_path)
    path = path / runs.LAST if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint to resume")
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
    return batches


@rank_zero_only
def save_config(config: DictConfig, output: Path) -> None:
    """The resolved config as ``config.yaml``; a resumed run adds ``config-1.yaml``, ``config-2.yaml``, ..."""
    output.mkdir(parents=True, exist_ok=True)
    path, number = output / "config.yaml", 0
    while path.exists():
        number += 1
        path = output / f"config-{number}.yaml"
    path.write_text(OmegaConf.to_yaml(config, resolve=True))


@rank_zero_only
def announce(config: DictConfig, model: SRModel, datamodule: Any, resume: Path | None) -> None:
    schedule = config.schedule
    steps = schedule.epochs * schedule.iterations
    skip = getattr(model.decoder, "skip", "none")
    log.info(
        f"{config.name}: {type(model.encoder).__name__} + {type(model.decoder).__name__} (skip: {skip}), "
        f"schedule {schedule.name}: {steps} steps of {schedule.batch_size} x {schedule.patch} x {schedule.patch}, "
        f"scale {schedule.min_scale:g} to {schedule.max_scale:g}"
    )
    if schedule.name == "quick":
        log.info("a quick demonstration, not the published recipe: that is data=div2k schedule=paper")
    log.info(f"{'resuming ' + str(resume) if resume else 'run folder'}: {config.paths.output}")


def summarise(trainer: L.Trainer, output: Path) -> None:
    if trainer.is_global_zero:
        shown = {k: v.item() for k, v in trainer.callback_metrics.items() if k == "val/psnr"}
        for name, value in shown.items():
            log.info(f"{name} {value:.2f} dB; test it: python run.py task=test ckpt_path={output}")
