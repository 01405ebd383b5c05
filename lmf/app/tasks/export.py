"""Task ``export``: writes a model and its card to one file, or to graphs that run without this package."""

from __future__ import annotations

import json
import logging
from itertools import chain
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig

from lmf import checkpoint, export
from lmf.app import tracking, version
from lmf.app.tasks.common import checkpoint_file, last_config, load
from lmf.app.tasks.options import flag, items
from lmf.app.tasks.trainer import make_loggers
from lmf.benchmark.cost import count
from lmf.calibration import Pictures, feature_range
from lmf.data import Folder
from lmf.decoders.modulation import LMFDecoder
from lmf.errors import UserError, one_line
from lmf.io import ORIENTATIONS
from lmf.model import SRModel
from lmf.training.loggers import log_file

log = logging.getLogger(__name__)

QUALITY = ("psnr", "ssim", "colour_share", "raw_max")  # the columns of results that a card keeps
COST_SIZE, COST_SCALES = (90, 160), (2, 3, 4, 6, 8, 12)
SAFETENSORS = "safetensors"
BOUNDS_REDUCTIONS, BOUNDS_CROP = (1, 2, 4), 256  # crop in pixels before the reduction


def run(config: DictConfig) -> None:
    """Write the trained model and its card to ``config.output``.

    With ``logger.wandb.log_model`` the file becomes a version of the W&B artifact named after it.

    Raises:
        UserError: if format, suffix or options do not fit, the model does not allow the format, no model is chosen, or
            the card or results are unreadable.
        MissingExtra: if the format needs packages that are not installed.
    """
    output = Path(config.output)
    split, half = flag("split", config.split), flag("half", config.half)
    check_format(output, config.format, split)
    source = checkpoint_file(config)
    card = known(source) | facts(config.card)
    for file in items("results", config.results):
        for measured, values in results(Path(file)).items():
            card.setdefault("results", {}).setdefault(measured, {}).update(values)
    model = load(config)
    others = items("average", config.average)
    if others:
        model = checkpoint.average([model, *(checkpoint.load(other, trust=config.trust) for other in others)])
        card["average"] = f"mean of the weights of {len(others) + 1} models"
    if config.bounds is not None:
        model = bounded(model, Path(config.bounds))
        card["bounds"] = f"features clamped to their range on photographs ({Path(config.bounds).name})"
    card["costs"] = costs(model)
    output.parent.mkdir(parents=True, exist_ok=True)
    if config.format == SAFETENSORS:
        checkpoint.save(model, output, card, half=half)
        written = [output]
    else:
        written = export.save(model, output, card, fmt=config.format, split=split, half=half)
    for file in written:
        log.info(f"{file}: {file.stat().st_size / 2**20:.1f} MiB, {', '.join(card) or 'an empty card'}")
    wandb = config.logger.get("wandb")
    if wandb and wandb.log_model:
        loggers = make_loggers(config, tracking.facts(config))
        for file in written:
            log_file(loggers, file, file.stem, ["exported"], card)


def bounded(model: SRModel, folder: Path) -> SRModel:
    """Return ``model`` with a decoder that clamps features to their range on the pictures in ``folder``.

    The pictures are seen as they are and reduced by 2 and 4.

    Raises:
        UserError: if the decoder has no option ``bounded``, or the folder has no pictures.
    """
    config = {**(model.config or {})}
    config["decoder"] = {**config["decoder"], "bounded": True}
    result = checkpoint.build(config, trust=[config[part]["_target_"].partition(".")[0] for part in config]).eval()
    result.load_state_dict(model.state_dict(), strict=False)
    sets = [Pictures(Folder(folder), scale, crop=BOUNDS_CROP) for scale in BOUNDS_REDUCTIONS]
    low, high = feature_range(result, chain(*sets))
    decoder = cast(LMFDecoder, result.decoder)
    decoder.feat_low.copy_(low)
    decoder.feat_high.copy_(high)
    log.info(f"features bounded to their range on {len(sets[0])} pictures in {folder}")
    return result


def check_format(output: Path, fmt: str, split: bool) -> None:
    """Check that ``output`` can be written in the format ``fmt``.

    Raises:
        UserError: if the format is unknown, the suffix does not fit, or ``split`` is set for a format without graphs.
        MissingExtra: if the format needs packages that are not installed.
    """
    if fmt not in (SAFETENSORS, *export.FORMATS):
        raise UserError(f"format must be one of {', '.join((SAFETENSORS, *export.FORMATS))}, got {fmt!r}")
    if fmt != SAFETENSORS:
        export.check_format(output, fmt)
    elif output.suffix != ".safetensors":
        raise UserError(f"output={output}: must end in .safetensors")
    elif split:
        raise UserError("split=true needs format=onnx or format=torch_export; a .safetensors file has no graphs")


def known(source: Path) -> dict[str, Any]:
    """Return the facts that the checkpoint at ``source`` and its run folder contain.

    A card keeps the version that it was first written with.
    """
    card = checkpoint.read_card(source) if checkpoint.is_safetensors(source) else recipe(source)
    return card if {"version", "commit"} & card.keys() else card | version.facts()


def recipe(source: Path) -> dict[str, Any]:
    """Return all trainings that led to the checkpoint at ``source``, the first one first, as read from run folders.

    A run that was resumed with other options counts with its last ones.
    """
    steps: list[dict[str, Any]] = []
    path: Path | None = source
    while path is not None and path.parent.name == "checkpoints":
        config = last_config(path.parent.parent)
        if config is None:
            break
        init_from = config.get("init_from")
        steps.insert(
            0,
            {
                "schedule": config.get("schedule"),
                "seed": config.get("seed"),
                "init_from": init_from and Path(init_from).name,
            },
        )
        path = checkpoint.find(init_from) if init_from and Path(init_from).exists() else None
    return {"recipe": steps} if steps else {}


def facts(path: str | None) -> dict[str, Any]:
    """Read a card file.

    Args:
        path: YAML file; None gives no facts.

    Raises:
        UserError: if the file cannot be read or is not a mapping.
    """
    if path is None:
        return {}
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"card={path}: not readable as YAML ({one_line(error, limit=200)})") from error
    if not isinstance(content, dict):
        raise UserError(f"card={path}: must be a mapping, such as 'data: my photographs'")
    return content


def costs(model: SRModel) -> dict[str, Any]:
    """Return the multiply-adds of enlarging one picture, by scale.

    Returns:
        ``{"lr_size": [90, 160], "gmacs": {"x4": ...}, "self_ensemble": 8}``: 10^9 multiply-adds of a picture of
        90 x 160 pixels, encoder included, and the number of passes of a self-ensemble.
    """
    gmacs = {f"x{scale}": round(count(model, COST_SIZE, scale=scale).total_macs / 1e9, 1) for scale in COST_SCALES}
    return {"lr_size": list(COST_SIZE), "gmacs": gmacs, "self_ensemble": len(ORIENTATIONS)}


def results(path: Path) -> dict[str, dict[str, float]]:
    """Read the quality from a results.json.

    Returns:
        ``{"set5_x4": {"psnr": ..., "ssim": ..., ...}}``, rounded to 4 decimals, shares to 6. Values of a self-ensemble
        are called ``self_ensemble_psnr`` and so on.

    Raises:
        UserError: if the file is not a results.json of ``task=test``.
    """
    try:
        found: dict[str, dict[str, float]] = {}
        for row in json.loads(path.read_text()):
            prefix = "self_ensemble_" if row.get("self_ensemble") else ""
            found.setdefault(f"{row['set']}_x{row['scale']:g}", {}).update(
                {
                    name if name.startswith("bicubic_") else prefix + name: round(value, 6 if "share" in name else 4)
                    for name, value in row.items()
                    if name.endswith(QUALITY)
                }
            )
        return found
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"results={path}: not a results.json of task=test ({one_line(error, limit=200)})") from error
