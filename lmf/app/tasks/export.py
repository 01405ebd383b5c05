"""Task ``export``: writes a model and its card to one file."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from lmf import checkpoint
from lmf.app import tracking, version
from lmf.app.tasks.common import checkpoint_file, last_config, load
from lmf.app.tasks.trainer import make_loggers
from lmf.errors import UserError, one_line
from lmf.training.loggers import log_file

log = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
    """Write the trained model and its card to ``config.output``.

    With ``logger.wandb.log_model`` the file becomes a version of the W&B artifact named after it.

    Raises:
        UserError: if the suffix is not ``.safetensors``, no model is chosen, or the card or results are unreadable.
    """
    output = Path(config.output)
    if output.suffix != ".safetensors":
        raise UserError(f"output={output}: must end in .safetensors")
    source = checkpoint_file(config)
    card = known(source) | facts(config.card)
    for file in config.results:
        card.setdefault("results", {}).update(results(Path(file)))
    model = load(config)
    output.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(model, output, card, half=config.half)
    log.info(f"{output}: {output.stat().st_size / 2**20:.1f} MiB, {', '.join(card) or 'an empty card'}")
    wandb = config.logger.get("wandb")
    if wandb and wandb.log_model:
        log_file(make_loggers(config, tracking.facts(config)), output, output.stem, ["exported"], card)


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


def results(path: Path) -> dict[str, dict[str, float]]:
    """Read PSNR and SSIM from a results.json.

    Returns:
        ``{"set5_x4": {"psnr": ..., "ssim": ..., ...}}``, rounded to 4 decimals.

    Raises:
        UserError: if the file is not a results.json of ``task=test``.
    """
    try:
        rows = json.loads(path.read_text())
        return {
            f"{row['set']}_x{row['scale']:g}": {k: round(v, 4) for k, v in row.items() if k.endswith(("psnr", "ssim"))}
            for row in rows
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"results={path}: not a results.json of task=test ({one_line(error, limit=200)})") from error
