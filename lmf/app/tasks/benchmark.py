"""Task ``benchmark``: measures time, MACs and memory of models."""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.progress import track

from lmf import checkpoint
from lmf.app import runs
from lmf.app.tasks.common import build, check_data, device_of, make_renderer, save_config
from lmf.app.tasks.options import flag, flags, items
from lmf.app.tasks.trainer import quieten
from lmf.benchmark import plots, quality, runner, tables, throughput
from lmf.errors import UserError
from lmf.io.files import write_text
from lmf.model import SRModel
from lmf.training.module import SRModule
from lmf.training.results import console

if TYPE_CHECKING:
    from lmf.data import EvalSet

log = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
    """Measure all models of ``config.task`` and write tables and plots to the run folder.

    Raises:
        UserError: if the run folder holds other results, or a model or size is invalid.
    """
    task, output = config.task, Path(config.paths.output)
    runs.check_output(output)
    device, averaged = device_of(config), flags("self_ensemble", config.self_ensemble)
    timed, rated, training = (flag(f"task.{name}", task[name]) for name in ("time", "quality", "training"))
    scales, backends, precisions = (items(f"task.{name}", task[name]) for name in ("scales", "backends", "precisions"))
    encoders = list(map(str, items("task.encoder_backends", task.encoder_backends)))
    models = {str(name): find(config, str(name)).to(device) for name in items("task.models", task.models)}
    sizes = [pair(size) for size in items("task.sizes", task.sizes)]
    sets = test_sets(config) if rated else []
    save_config(config, output)
    cases = runner.plan(models, sizes, scales, backends, list(map(str, precisions)), averaged, encoders)
    if timed:
        rows = runner.measure(
            models,
            cases,
            device=device,
            repeats=task.repeats,
            budget=task.budget,
            progress=lambda turns: track(turns, description="measuring", transient=True),
        )
    else:
        once = runner.plan(models, sizes, scales, backends[:1], self_ensembles=averaged)
        rows = runner.count(models, once)
    runner.save(rows, output)
    plots.save_plots(rows, output)
    console().print(*tables.benchmark_tables(rows))
    if timed:
        peak, bandwidth = rows[0].peak_gflops, rows[0].peak_gbs
        log.info(
            f"measured on this device: {peak:.1f} GFLOP/s (matrix product or convolution), {bandwidth:.1f} GB/s "
            "(copy); the floor is computed from them"
        )
    if sets:
        points = quality.measure(models, rows, sets, lambda rows: track(rows, description="quality", transient=True))
        quality.save(points, output)
        console().print(tables.quality_table(points))
    if training:
        train(config, output)
    log.info(f"results: {output}")


def test_sets(config: DictConfig) -> list[EvalSet]:
    """Return the test sets of ``config.data`` at the scales of the benchmark.

    Raises:
        DataError: if test data is missing or unsuitable.
    """
    data = instantiate(config.data.module, test_settings={"scales": list(config.task.scales)})
    check_data(data, "test")
    sets: list[EvalSet] = data.test_sets
    return sets


def train(config: DictConfig, output: Path) -> None:
    """Measure the training throughput of the config's model and data, and write it to ``training.json``."""
    quieten()
    batches = config.task.batches
    data = instantiate(config.data.module, iterations=batches + throughput.WARMUP)
    module = SRModule(build(config), optimizer=instantiate(config.schedule.optimizer, _convert_="all"))

    def trainer(**options: Any) -> L.Trainer:
        quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0, "logger": False}
        made: L.Trainer = instantiate(config.trainer, max_epochs=-1, plugins=None, **quiet, **options)
        return made

    speed = throughput.measure(module, data, batches, trainer)
    write_text(output / "training.json", json.dumps(asdict(speed), indent=1) + "\n")
    log.info(
        f"training, batches of {speed.batch_size}: loader alone {speed.loader_images_s:.1f} images/s "
        f"({speed.workers} workers), whole step {speed.step_images_s:.1f} images/s; the loader needs "
        f"{speed.loader_share:.0%} of a step's time, {speed.wait:.0%} of a step is spent outside the model"
    )


def find(config: DictConfig, name: str) -> SRModel:
    """Return the model called ``name`` in ``config.task.models``.

    Args:
        config: the config of the task.
        name: a key of ``config.task.decoders``, which gives random weights, or anything `lmf.load` accepts.

    Raises:
        UserError: if ``name`` is neither.
    """
    task = config.task
    if name in task.decoders:
        model_config = copy.deepcopy(config)
        model_config.encoder = task.encoders.get(name, config.encoder)
        model_config.decoder = task.decoders[name]
        return build(model_config)
    try:
        path = checkpoint.find(name)
    except checkpoint.CheckpointError as error:
        raise UserError(f"task.models must be some of {', '.join(task.decoders)}, or checkpoints; {error}") from None
    model = checkpoint.load(path, trust=config.trust)
    model.renderer = make_renderer(config, model, path)
    return model


def pair(size: Any) -> tuple[int, int]:
    """Convert an entry of ``task.sizes`` to (height, width).

    Raises:
        UserError: if it does not have two numbers.
    """
    if isinstance(size, int) or len(size) != 2:
        raise UserError(f"task.sizes must be [[height,width], ...], got {size}")
    return int(size[0]), int(size[1])
