"""Task ``compare``: measures several models on the same pictures, and draws what they make of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig
from rich.progress import track

from lmf import checkpoint, comparison
from lmf.app import runs
from lmf.app.tasks.common import check_data, device_of, save_config
from lmf.app.tasks.options import flag, items
from lmf.comparison import Entry
from lmf.comparison.crops import Shot
from lmf.comparison.tables import HEADINGS, ranked, shown
from lmf.data import DataError, Files, Folder, SRDataModule
from lmf.decoders import Bicubic
from lmf.encoders import Identity
from lmf.errors import UserError, did_you_mean
from lmf.figures import comparison as figure
from lmf.figures.style import save
from lmf.io.csv import csv_text
from lmf.io.files import write_text
from lmf.metrics.perceptual import perceptual
from lmf.model import SRModel
from lmf.precision import autocast
from lmf.renderers import CMSR
from lmf.renderers.cmsr import tables
from lmf.training.results import console

log = logging.getLogger(__name__)

DIALS = ("mse_threshold", "precision_db", "budget")
KEYS = ("model", "label", "self_ensemble", *DIALS)


def run(config: DictConfig) -> None:
    """Compare ``config.task.models`` on the test sets of ``config.data`` or on the pictures of ``config.input``.

    Raises:
        UserError: if an option or a model is invalid, or the run folder holds other results.
        DataError: if the pictures are missing or unsuitable.
    """
    task, output = config.task, Path(config.paths.output)
    runs.check_output(output)
    device = device_of(config)
    entries = [entry(spec, config.trust) for spec in specs(task.models)]
    comparison.check_options(entries, task.figures, task.crop, task.repeats)
    metrics = perceptual(items("task.metrics", task.metrics))
    names = None if task.names is None else items("task.names", task.names)
    data = pictures(config)
    check_data(data, "test")
    save_config(config, output)
    for each in entries:
        each.model.to(device)
    result = comparison.compare(
        entries,
        data.test_sets,
        metrics=metrics,
        figures=task.figures,
        names=names,
        crop=task.crop,
        corner=task.corner,
        repeats=task.repeats,
        autocast=autocast(config.precision, device),
        progress=lambda items: track(items, description="comparing", transient=True),
    )
    table = comparison.tabulate(result)
    write_text(output / "compare.csv", table.csv())
    write_text(output / "compare.md", table.markdown())
    write_text(output / "compare.tex", table.latex())
    write_text(output / "pictures.csv", csv_text([score.columns() for score in result.scores]))
    for shot in result.shots:
        save(draw(shot, table.metrics), output / "figures" / shot.name)
    write_text(output / "compare.json", json.dumps(table.records(), indent=1) + "\n")
    console().print(*table.screen())
    log.info(table.note)
    log.info(f"tables, figures and values of each picture: {output}")


def specs(models: Any) -> list[dict[str, Any]]:
    """Return the entries of ``task.models`` as dictionaries with the key ``model`` and others of `KEYS`.

    Raises:
        UserError: if an entry is neither a name nor such a dictionary.
    """
    if isinstance(models, str) or not models:
        raise UserError(f"task.models must be a list, such as [bicubic,lm_liif_edsr], got {models}")
    found = []
    for item in models:
        spec = dict(item) if isinstance(item, Mapping) else {"model": str(item)}
        if unknown := [key for key in spec if key not in KEYS]:
            keys, similar = ", ".join(KEYS), did_you_mean(map(str, unknown), KEYS)
            raise UserError(f"task.models: unknown {', '.join(map(str, unknown))}; the keys are {keys}{similar}")
        if "model" not in spec:
            raise UserError(f"task.models: {spec} names no model; give {{model:NAME}}")
        found.append(spec)
    return found


def entry(spec: Mapping[str, Any], trust: Iterable[str]) -> Entry:
    """Load the model of an entry of ``task.models``.

    Args:
        spec: the entry, see `specs`. ``bicubic`` is interpolation; other models are anything `lmf.load` accepts. With
            one of `DIALS` it renders by CMSR.
        trust: see `lmf.load`.

    Raises:
        UserError: if there is no such model, or it has no CMSR tables.
    """
    name = str(spec["model"])
    dials = {key: spec[key] for key in DIALS if spec.get(key) is not None}
    if name == "bicubic":
        path, model = None, SRModel(Identity(), Bicubic()).eval()
    else:
        path = checkpoint.find(name)
        model = checkpoint.load(path, trust=list(trust))
    if dials:
        if path is None:
            raise UserError("bicubic interpolation has no CMSR; remove " + ", ".join(dials))
        renderer = CMSR(tables.beside(path), dense="never", **dials)
        renderer.check(model)
        model.renderer = renderer
    settings = "".join(f", {key} {value:g}" for key, value in dials.items())
    ensemble = flag(f"self_ensemble of {name}", spec.get("self_ensemble", False))
    settings += ", self-ensemble" * ensemble
    return Entry(str(spec.get("label") or f"{checkpoint.short_name(name)}{settings}"), model, ensemble)


def pictures(config: DictConfig) -> SRDataModule:
    """Return the data to compare on: the test sets of ``config.data``, or the pictures of ``config.input``.

    Raises:
        DataError: if ``config.input`` does not exist.
    """
    if config.input is None:
        data: SRDataModule = instantiate(config.data.module)
        return data
    path = Path(config.input).expanduser()
    if not path.exists():
        raise DataError(f"input={config.input}: no such picture or folder")
    lr = "pil" if config.data.lr == "stored" else config.data.lr
    settings = instantiate(config.data.module.test_settings, sets=None, lr=lr)
    source = Files([path]) if path.is_file() else Folder(path)
    return SRDataModule(test={path.stem: source}, test_settings=settings)


def draw(shot: Shot, metrics: Sequence[str]) -> Figure:
    """Draw the figure of a shot, with the metrics of the whole picture below each crop."""
    ranks = ranked({model: dict(values) for model, values in shot.values.items()}, metrics)
    numbers = {
        model: [(shown(metric, values[metric]), ranks[model].get(metric, 0)) for metric in metrics]
        for model, values in shot.values.items()
    }
    panels = figure.panels_of(shot.truth, shot.crops, shot.errors, numbers)
    unit = " / ".join(HEADINGS.get(metric, metric) + (" in dB" if metric == "psnr" else "") for metric in metrics)
    return figure.draw(shot.hr, shot.box, f"{shot.picture} ({shot.set}), x{shot.scale:g}", panels, unit)
