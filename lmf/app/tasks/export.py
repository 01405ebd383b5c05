"""A model as one file to share."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from lmf import checkpoint
from lmf.app import version
from lmf.app.tasks.common import checkpoint_file, load
from lmf.errors import UserError, one_line

log = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
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


def known(source: Path) -> dict[str, Any]:
    """What the checkpoint at ``source`` says about itself. A card keeps the version it was first written with."""
    card = checkpoint.read_card(source) if source.suffix == ".safetensors" else recipe(source)
    return card if {"version", "commit"} & card.keys() else card | version.facts()


def recipe(source: Path) -> dict[str, Any]:
    """How the checkpoint at ``source`` came about, as far as run folders tell: every training, the first one first."""
    steps: list[dict[str, Any]] = []
    path: Path | None = source
    while path is not None and (file := path.parent.parent / "config.yaml").is_file():
        config = yaml.safe_load(file.read_text())
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
    """The content of a card file."""
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
    """``{"set5_x4": {"psnr": ..., "ssim": ..., ...}}`` of a results.json."""
    try:
        rows = json.loads(path.read_text())
        return {
            f"{row['set']}_x{row['scale']:g}": {k: round(v, 4) for k, v in row.items() if k.endswith(("psnr", "ssim"))}
            for row in rows
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"results={path}: not a results.json of task=test ({one_line(error, limit=200)})") from error
